"""The pages for people: rendered here, made lively by the scripts in web/static."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from api import errors, present, table
from api.access import begin_writing
from api.again import larger
from api.cautions import cautions
from api.compressed import compressed
from api.drawing import drawing
from api.errors import ApiError, from_refusal, from_validation
from api.forms import faults_of, in_words, request_of, still_filled_in
from api.gate import Refused
from api.jobs import Jobs
from api.library import Library
from api.resolve import BATCH_SIZE, EPOCHS, resolve
from api.routes import TheJobs, TheLibrary, TheSettings
from api.routes.recommendations import found, start
from api.schemas.asked import LossName, RecommendationRequest
from api.settings import Backend, Settings
from recommender import words
from recommender.answer import on_backend
from recommender.budget import SHARE
from recommender.knowledge import published

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(Path(__file__).parent / "web" / "templates")
templates.env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # as written, model before data
templates.env.globals |= {
    "said": words,
    "backends": get_args(Backend),
    "on_backend": on_backend,
    "cautions": cautions,
    "drawing": drawing,
    "shares": SHARE,
}

Plain = dict[str, Any]
RECENT = 8
LONGEST_WAIT = 3600


@router.get("/")
def home(
    request: Request, jobs: TheJobs, library: TheLibrary, settings: TheSettings
) -> HTMLResponse:
    """The form."""
    return _home(request, jobs, library, settings, {})


@router.post("/")
async def ask(
    request: Request, jobs: TheJobs, library: TheLibrary, settings: TheSettings
) -> Response:
    """The form as it stands: on to a new job's page, or the instant answer where none is asked for.

    Without scripts its buttons send it; a script sends it without a button whenever it changes.
    """
    async with request.form(max_files=2, max_fields=40) as sent:
        return await run_in_threadpool(_answer, request, sent, jobs, library, settings)


@router.get("/recommendations/{job}")
def recommendation(request: Request, job: str, jobs: TheJobs, sort: str = "") -> HTMLResponse:
    """A job: live where scripts run, as it stands where they do not."""
    row = jobs.get(job)
    if row is None:
        return missing(request, f"There is no recommendation {job[:40]!r}.")
    return _job(request, row, jobs, sort=sort)


@router.get("/recommendations/{job}/trials.csv")
def trials_csv(job: str, jobs: TheJobs) -> Response:
    """The short trainings, for spreadsheets."""
    parameters = _parameters(present.recommendation(found(jobs, job)))
    headers = {"Content-Disposition": f'attachment; filename="{job}.csv"'}
    text = table.as_csv(jobs.trials(job), parameters)
    return Response(text, media_type="text/csv", headers=headers)


@router.post("/recommendations/{job}/cancel")
def cancel(job: str, jobs: TheJobs) -> RedirectResponse:
    """The page's cancel button, where scripts do not run."""
    found(jobs, job)
    jobs.cancel(job)
    return RedirectResponse(f"/recommendations/{job}", status_code=303)


@router.post("/recommendations/{job}/again")
def again(
    request: Request, job: str, jobs: TheJobs, library: TheLibrary, settings: TheSettings
) -> Response:
    """The same request with more budget, as a job of its own."""
    row = found(jobs, job)
    try:
        asked = RecommendationRequest.model_validate(larger(row.request) or row.request)
        started = start(asked, jobs, library, settings)
    except (ApiError, Refused, ValidationError) as error:
        return _job(request, row, jobs, problem=_problem(error))
    return RedirectResponse(f"/recommendations/{started.id}", status_code=303)


@router.get("/catalog")
def catalog(request: Request) -> HTMLResponse:
    """Every optimizer and schedule."""
    context = {name: published()[name] for name in ("optimizers", "schedules")}
    return compressed(request, render(request, "catalog.html", context))


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """The API, from its own description."""
    known = {
        code: {"title": text, "status": errors.STATUS.get(code, errors.REFUSED)}
        for code, text in errors.TITLES.items()
    }
    context = {"openapi": request.app.openapi(), "errors": known}
    return compressed(request, render(request, "docs.html", context))


def missing(request: Request, detail: str) -> HTMLResponse:
    """The page for what is not there."""
    problem = {"title": errors.TITLES["not_found"], "detail": detail}
    return render(request, "missing.html", {"problem": problem}, status=404)


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


def _answer(
    request: Request, sent: FormData, jobs: Jobs, library: Library, settings: Settings
) -> Response:
    form = {key: value for key, value in sent.items() if isinstance(value, str)}
    try:
        if form.get("action") == "probe" or _has_files(sent):
            begin_writing(request)
        _take_uploads(sent, form, library)
        asked = RecommendationRequest.model_validate(request_of(form))
        if form.get("action") != "probe":
            advice = resolve(asked, library).advice()
            return _home(request, jobs, library, settings, form, advice=advice)
        row = start(asked, jobs, library, settings)
    except (ApiError, Refused, ValidationError) as error:
        return _home(request, jobs, library, settings, form, problem=_problem(error))
    return RedirectResponse(f"/recommendations/{row.id}", status_code=303)


def _has_files(sent: FormData) -> bool:
    return any(isinstance(one, UploadFile) and one.filename for one in sent.values())


def _take_uploads(sent: FormData, form: dict[str, str], library: Library) -> None:
    """Take in the files that came along; their ids go under the names of the hidden fields."""
    model, data = sent.get("model_file"), sent.get("data_file")
    if isinstance(model, UploadFile) and model.filename:
        json_text = model.filename.lower().endswith(".json")
        row = (
            library.add_model_config(model.file.read(2**20 + 1))
            if json_text
            else library.add_model_archive(model.file)
        )
        form["model_id"] = row.id
    if isinstance(data, UploadFile) and data.filename:
        form["dataset_id"] = library.add_dataset(data.file, form.get("target") or None).id


def _uploads(form: dict[str, str], library: Library) -> Plain:
    """What was read of the uploads that the form names."""
    found: Plain = {}
    for field, take, show in (
        ("model_id", library.model, present.model),
        ("dataset_id", library.dataset, present.dataset),
    ):
        with suppress(ApiError):  # an id that leads nowhere is the answer's to complain about
            if form.get(field):
                found[field] = show(take(form[field]))
    return found


def _problem(error: ApiError | Refused | ValidationError) -> Plain:
    if isinstance(error, ValidationError):
        # A body's places begin with its name.
        places = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        error = from_validation(RequestValidationError(places))
    elif isinstance(error, Refused):
        error = from_refusal(error)
    heading = errors.TITLES.get(error.code, error.code)
    faults = [{**one, "detail": in_words(one["detail"])} for one in error.errors]
    return {"title": heading, "detail": error.detail, "errors": faults, "code": error.code}


def _job(
    request: Request, row: Row[Any], jobs: Jobs, *, sort: str = "", problem: Plain | None = None
) -> HTMLResponse:
    shown = present.recommendation(row)
    best = shown["progress"]["best_so_far"]
    parameters = _parameters(shown)
    context = {
        "job": shown,
        "title": title(shown),
        "trials": table.ordered(jobs.trials(row.id), sort, best and best["trial"]),
        "headings": table.headings(sort),
        "duration": table.duration,
        "memory": lambda trial: table.memory(trial, parameters),
        "again": larger(row.request),
        "problem": problem,
    }
    return render(request, "recommendation.html", context, status=_status(problem))


def _parameters(job: Plain) -> int | None:
    """Weights of a job's model, where they are known."""
    advice = job["result"] or job["advice_before"]
    found: int | None = advice["evidence"]["description"]["parameters"]
    return found


def _status(problem: Plain | None) -> int:
    return 200 if problem is None else errors.STATUS.get(problem["code"], errors.REFUSED)


def _home(
    request: Request,
    jobs: Jobs,
    library: Library,
    settings: Settings,
    form: dict[str, str],
    *,
    problem: Plain | None = None,
    advice: Plain | None = None,
) -> HTMLResponse:
    recent = []
    may_read = request.state.caller.may("read")
    for row in jobs.newest(RECENT, None) if may_read else ():
        shown = present.recommendation(row)
        recent.append(
            {key: shown[key] for key in ("id", "status", "created_at")} | {"label": title(shown)}
        )
    context: Plain = {
        "samples": {one["name"]: one for one in published()["samples"]},
        "losses": get_args(LossName),
        "form": form,
        "followed": still_filled_in(form),
        "uploads": _uploads(form, library),
        "problem": problem,
        "wrong": faults_of(problem["errors"], form) if problem else {},
        "advice": advice,
        "recent": recent,
        "worker": jobs.workers_alive() > 0,
        "limits": {
            "upload_mb": settings.max_upload_bytes // 2**20,
            "max_seconds": LONGEST_WAIT,
        },
        "usual": {
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "backend": settings.backend,
            "max_seconds": f"{RecommendationRequest.model_fields['max_seconds'].default:g}",
        },
    }
    return render(request, "home.html", context, status=_status(problem))


def render(request: Request, name: str, context: Plain, status: int = 200) -> HTMLResponse:
    """A page from its template."""
    always = {"version": published()["versions"]["keras_gradopt"], "path": request.url.path}
    return templates.TemplateResponse(request, name, always | context, status_code=status)
