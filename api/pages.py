"""The pages for people: rendered here, made lively by the scripts in web/static."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from api import errors, present
from api.errors import ApiError, from_refusal, from_validation
from api.forms import request_of
from api.gate import Refused
from api.jobs import Jobs
from api.library import Library
from api.resolve import resolve
from api.routes import TheJobs, TheLibrary, TheSettings
from api.routes.recommendations import found, start
from api.schemas import LossName, RecommendationRequest
from api.settings import Backend, Settings
from recommender.knowledge import published

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(Path(__file__).parent / "web" / "templates")
templates.env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # as written, model before data

Plain = dict[str, Any]
RECENT = 8
LONGEST_WAIT = 3600


@router.get("/")
def home(request: Request, jobs: TheJobs, settings: TheSettings) -> HTMLResponse:
    """The form."""
    return _home(request, jobs, settings)


@router.post("/")
async def ask(
    request: Request, jobs: TheJobs, library: TheLibrary, settings: TheSettings
) -> Response:
    """The form sent in: the instant answer, or on to a new job's page."""
    async with request.form(max_files=2, max_fields=40) as form:
        texts = {key: value for key, value in form.items() if isinstance(value, str)}
        try:
            texts |= await run_in_threadpool(_upload, form, library)
            asked = RecommendationRequest.model_validate(request_of(texts))
            if texts.get("action") == "instant":
                advice = (await run_in_threadpool(resolve, asked, library)).advice()
                return _home(request, jobs, settings, form=texts, advice=advice)
            row = await run_in_threadpool(start, asked, jobs, library, settings)
        except (ApiError, Refused, ValidationError) as error:
            problem = _problem(error)
            return _home(request, jobs, settings, form=texts, problem=problem)
    return RedirectResponse(f"/recommendations/{row.id}", status_code=303)


@router.get("/recommendations/{job}")
def recommendation(request: Request, job: str, jobs: TheJobs) -> HTMLResponse:
    """A job: live where scripts run, as it stands where they do not."""
    row = jobs.get(job)
    if row is None:
        return missing(request, f"There is no recommendation {job[:40]!r}.")
    shown = present.recommendation(row)
    context = {"job": shown, "trials": jobs.trials(job), "title": title(shown)}
    return _page(request, "recommendation.html", context)


@router.post("/recommendations/{job}/cancel")
def cancel(job: str, jobs: TheJobs) -> RedirectResponse:
    """The page's cancel button, where scripts do not run."""
    found(jobs, job)
    jobs.cancel(job)
    return RedirectResponse(f"/recommendations/{job}", status_code=303)


@router.get("/catalog")
def catalog(request: Request) -> HTMLResponse:
    """Every optimizer and schedule."""
    context = {name: published()[name] for name in ("optimizers", "schedules")}
    return _page(request, "catalog.html", context)


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """The API, from its own description."""
    known = {
        code: {"title": text, "status": errors.STATUS.get(code, errors.REFUSED)}
        for code, text in errors.TITLES.items()
    }
    return _page(request, "docs.html", {"openapi": request.app.openapi(), "errors": known})


def missing(request: Request, detail: str) -> HTMLResponse:
    """The page for what is not there."""
    problem = {"title": errors.TITLES["not_found"], "detail": detail}
    return _page(request, "missing.html", {"problem": problem}, status=404)


def title(job: Plain) -> str:
    """What to call a job."""
    if job["request"]["label"]:
        return str(job["request"]["label"])
    model, data = job["request"]["model"], job["request"]["data"]
    if data["kind"] == "ref" and data["id"].startswith("sample:"):
        return f"Sample {data['id'].removeprefix('sample:')}"
    if data["kind"] == "ref":
        return "Your data"
    return f"Described: {model.get('family', 'model')} on {data['task']}"


def _upload(form: FormData, library: Library) -> dict[str, str]:
    """Take in the form's files; returns the ids under the names of the hidden fields."""
    ids = {}
    model, data = form.get("model_file"), form.get("data_file")
    if isinstance(model, UploadFile) and model.filename:
        json_text = model.filename.lower().endswith(".json")
        row = (
            library.add_model_config(model.file.read(2**20 + 1))
            if json_text
            else library.add_model_archive(model.file)
        )
        ids["model_id"] = row.id
    if isinstance(data, UploadFile) and data.filename:
        ids["dataset_id"] = library.add_dataset(data.file).id
    return ids


def _problem(error: ApiError | Refused | ValidationError) -> Plain:
    if isinstance(error, ValidationError):
        # A body's places begin with its name.
        places = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        error = from_validation(RequestValidationError(places))
    elif isinstance(error, Refused):
        error = from_refusal(error)
    heading = errors.TITLES.get(error.code, error.code)
    return {"title": heading, "detail": error.detail, "errors": error.errors, "code": error.code}


def _home(
    request: Request,
    jobs: Jobs,
    settings: Settings,
    *,
    form: dict[str, str] | None = None,
    problem: Plain | None = None,
    advice: Plain | None = None,
) -> HTMLResponse:
    recent = []
    for row in jobs.newest(RECENT, None):
        shown = present.recommendation(row)
        recent.append(
            {key: shown[key] for key in ("id", "status", "created_at")} | {"label": title(shown)}
        )
    context: Plain = {
        "samples": published()["samples"],
        "losses": get_args(LossName),
        "backends": get_args(Backend),
        "form": form or {},
        "problem": problem,
        "advice": advice,
        "recent": recent,
        "worker": jobs.workers_alive() > 0,
        "limits": {
            "upload_mb": settings.max_upload_bytes // 2**20,
            "max_seconds": LONGEST_WAIT,
        },
    }
    status = 200 if problem is None else errors.STATUS.get(problem["code"], errors.REFUSED)
    return _page(request, "home.html", context, status=status)


def _page(request: Request, name: str, context: Plain, status: int = 200) -> HTMLResponse:
    always = {"version": published()["versions"]["keras_gradopt"], "path": request.url.path}
    return templates.TemplateResponse(request, name, always | context, status_code=status)
