"""Uploads: models and data sets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Path, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from api import present
from api.errors import ApiError, responses
from api.resolve import sample_of
from api.routes import TheLibrary, TheSettings
from api.schemas import Dataset, DatasetId, Model, ModelId

router = APIRouter(prefix="/v1", tags=["uploads"])
REFUSALS = ("malformed_json", "body_too_large", "unsupported_type", "validation_failed")
MODEL_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "What `model.to_json()` gives."},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.post(
    "/models",
    status_code=201,
    response_model=Model,
    summary="Upload a model",
    responses=responses(*REFUSALS),
    openapi_extra=MODEL_BODY,
)
async def create_model(
    request: Request, response: Response, library: TheLibrary, settings: TheSettings
) -> dict[str, Any]:
    """A `.keras` file as a form's `file`, or the JSON of `model.to_json()` as the body.

    Only the architecture is kept: weights are never read, probes draw fresh ones. Lambda layers,
    custom classes and everything else that is no plain Keras layer are refused.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await _body(request, settings.max_json_bytes)
        row = await run_in_threadpool(library.add_model_config, body)
    elif kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise ApiError("validation_failed", "The form needs the model as its field 'file'.")
            row = await run_in_threadpool(library.add_model_archive, file.file)
    else:
        raise ApiError(
            "unsupported_type",
            f"Received {kind[:80] or 'no content type'}; send application/json with what "
            "model.to_json() gives, or multipart/form-data with a .keras file as 'file'.",
        )
    response.headers["Location"] = f"/v1/models/{row.id}"
    return present.model(row)


@router.post(
    "/datasets",
    status_code=201,
    response_model=Dataset,
    summary="Upload a data set",
    responses=responses(*REFUSALS),
)
def create_dataset(
    response: Response,
    library: TheLibrary,
    file: Annotated[UploadFile, File(description="A .npz with x and y (and x_val, y_val).")],
) -> dict[str, Any]:
    """A `.npz` file as `numpy.savez(path, x=x, y=y)` writes it; numbers only."""
    row = library.add_dataset(file.file)
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    return present.dataset(row)


@router.get(
    "/models/{model_id}",
    response_model=Model,
    summary="Show a model",
    responses=responses("not_found", "validation_failed"),
)
def get_model(model_id: Annotated[ModelId, Path()], library: TheLibrary) -> dict[str, Any]:
    """What was read of an uploaded model, or of a sample's."""
    sample = sample_of(model_id)
    return present.sample_model(sample) if sample else present.model(library.model(model_id))


@router.get(
    "/datasets/{dataset_id}",
    response_model=Dataset,
    summary="Show a data set",
    responses=responses("not_found", "validation_failed"),
)
def get_dataset(dataset_id: Annotated[DatasetId, Path()], library: TheLibrary) -> dict[str, Any]:
    """What was read of an uploaded data set, or of a sample."""
    sample = sample_of(dataset_id)
    if sample:
        return present.sample_dataset(sample)
    return present.dataset(library.dataset(dataset_id))


async def _body(request: Request, most: int) -> bytes:
    """The body, as long as it is not larger than `most`."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise ApiError("body_too_large", f"A JSON body may have {most // 1024} KiB.")
    return bytes(found)
