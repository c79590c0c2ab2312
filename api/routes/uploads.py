"""Uploads: models and data sets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from api import present
from api.errors import ApiError, responses
from api.once import Created
from api.resolve import sample_of
from api.routes import TheLibrary, TheOnce, ThePage, TheSettings
from api.schemas.base import DatasetId, ModelId, UploadedDatasetId, UploadedModelId
from api.schemas.uploads import Dataset, Datasets, Model, Models

router = APIRouter(prefix="/v1", tags=["uploads"])
REFUSALS = (
    "malformed_json",
    "body_too_large",
    "unsupported_type",
    "validation_failed",
    "idempotency_key_reused",
    "quota_exceeded",
    "storage_full",
)
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
    request: Request, once: TheOnce, library: TheLibrary, settings: TheSettings
) -> Response:
    """A `.keras` file as a form's `file`, or the JSON of `model.to_json()` as the body.

    Only the architecture is kept: weights are never read, probes draw fresh ones. Lambda layers,
    custom classes and everything else that is no plain Keras layer are refused.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await _body(request, settings.max_json_bytes)
        return await run_in_threadpool(
            once.create, body, lambda also: library.add_model_config(body, also), _model_made
        )
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise ApiError("validation_failed", "The form needs the model as its field 'file'.")
            archive = file.file
            return await run_in_threadpool(
                once.create,
                archive,
                lambda also: library.add_model_archive(archive, also),
                _model_made,
            )
    raise ApiError(
        "unsupported_type",
        f"Received {kind[:80] or 'no content type'}; send application/json with what "
        "model.to_json() gives, or multipart/form-data with a .keras file as 'file'.",
    )


def _model_made(row: Row[Any]) -> Created:
    return Created(201, Model, present.model(row), {"Location": f"/v1/models/{row.id}"})


@router.post(
    "/datasets",
    status_code=201,
    response_model=Dataset,
    summary="Upload a data set",
    responses=responses(*REFUSALS),
)
def create_dataset(
    once: TheOnce,
    library: TheLibrary,
    file: Annotated[
        UploadFile,
        File(description="A .npz with x and y (and x_val, y_val), a .csv or a .parquet."),
    ],
    target: Annotated[
        str | None,
        Form(
            max_length=120,
            description="The column of a table to predict; left out: y, target or label, else the "
            "last one.",
        ),
    ] = None,
) -> Response:
    """Numbers: arrays as `numpy.savez(path, x=x, y=y)` writes them, or a table with a heading.

    In a table all columns but the target are inputs. A target of few different whole numbers or
    texts is one of classes.
    """
    return once.create(
        file.file,
        lambda also: library.add_dataset(file.file, target or None, also),
        _dataset_made,
        beside=target or "",
    )


def _dataset_made(row: Row[Any]) -> Created:
    return Created(201, Dataset, present.dataset(row), {"Location": f"/v1/datasets/{row.id}"})


@router.get(
    "/models",
    response_model=Models,
    summary="List models",
    responses=responses("validation_failed"),
)
def list_models(library: TheLibrary, page: ThePage) -> dict[str, Any]:
    """Uploaded ones, the newest first."""
    return page.of(library.models, present.model)


@router.get(
    "/datasets",
    response_model=Datasets,
    summary="List data sets",
    responses=responses("validation_failed"),
)
def list_datasets(library: TheLibrary, page: ThePage) -> dict[str, Any]:
    """Uploaded ones, the newest first."""
    return page.of(library.datasets, present.dataset)


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


@router.delete(
    "/models/{model_id}",
    status_code=204,
    summary="Delete a model",
    responses=responses("not_found", "conflict_in_use", "validation_failed"),
)
def delete_model(model_id: Annotated[UploadedModelId, Path()], library: TheLibrary) -> None:
    """Unless a job that has not ended uses it."""
    library.delete_model(model_id)


@router.delete(
    "/datasets/{dataset_id}",
    status_code=204,
    summary="Delete a data set",
    responses=responses("not_found", "conflict_in_use", "validation_failed"),
)
def delete_dataset(dataset_id: Annotated[UploadedDatasetId, Path()], library: TheLibrary) -> None:
    """With its bytes, unless a job that has not ended uses it."""
    library.delete_dataset(dataset_id)


async def _body(request: Request, most: int) -> bytes:
    """The body, as long as it is not larger than `most`."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most:
            raise ApiError("body_too_large", f"A JSON body may have {most // 1024} KiB.")
    return bytes(found)
