"""Lists in pages, deleting, quotas, rates, and what becomes of old things."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api import store as tables
from api.janitor import sweep
from api.leases import Leases, Notes
from api.rates import Rate
from tests.api.inside import Inside, inside
from tests.api.server import DIGITS, NET, npz, regression, until

pytestmark = pytest.mark.backend_free

LISTS = ("/v1/recommendations", "/v1/models", "/v1/datasets", "/v1/keys")
PLENTY = {"writes_per_minute": 10**6, "live_jobs_per_key": 100}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path) as made:
        yield made


def data(rows: int = 400) -> dict[str, Any]:
    return {"files": {"file": ("d.npz", npz(**regression(rows)))}}


def made(web: Inside, path: str, key: str | None = None, **arguments: Any) -> Any:
    response = web.ask("POST", path, key, **arguments)
    assert response.status_code in (201, 202), response.text
    return response.json()


def make(web: Inside, path: str, key: str | None, number: int) -> str:
    """One entry of a list."""
    arguments: dict[str, Any] = {
        "/v1/recommendations": {"json": {**DIGITS, "seed": number}},
        "/v1/models": {"json": NET},
        "/v1/datasets": data(100 + number),
        "/v1/keys": {"json": {"name": f"key {number}"}},
    }[path]
    return str(made(web, path, key, **arguments)["id"])


def finish(web: Inside, job: str) -> None:
    """Work on a job as a worker does."""
    jobs = Leases(web.store)
    jobs.beat("w")
    while (claim := jobs.claim("w")) is not None:
        jobs.note(claim, Notes(events=[("log", {"text": "x"})], trials={0: {"status": "running"}}))
        if claim.id == job:
            jobs.finish(claim, "failed", reason=("internal", "x"))
            return
    raise AssertionError("it does not wait")


def count(web: Inside, table: str) -> int:
    with web.store.read() as connection:
        query = sa.select(sa.func.count()).select_from(tables.metadata.tables[table])
        return int(connection.scalar(query) or 0)


# --- lists ---


@pytest.mark.parametrize("path", LISTS)
def test_pages_hold_everything_once_the_newest_first(path: str, tmp_path: Path) -> None:
    with inside(tmp_path, keys="required", **PLENTY) as web:
        key = web.key("me", "admin", "read", "write")
        ids = [make(web, path, key, number) for number in range(5)]
        if path == "/v1/keys":
            ids.append(key[4:12])
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = web.ask("GET", path, key, params={"limit": 2, **after}).json()
            assert len(page["data"]) <= 2
            found += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                assert page["next"] is None
                break
            after = {"after": page["next"]}
        assert found == sorted(ids, reverse=True)


def test_jobs_are_listed_by_their_state(web: Inside) -> None:
    ids = [make(web, LISTS[0], None, number) for number in range(4)]
    for job in ids[:2]:
        web.ask("POST", f"{LISTS[0]}/{job}/cancel")
    for status, some in (("queued", ids[2:]), ("cancelled", ids[:2]), ("running", [])):
        listed = web.ask("GET", LISTS[0], params={"status": status}).json()["data"]
        assert [one["id"] for one in listed] == some[::-1]
    assert web.ask("GET", LISTS[0], params={"status": "nosuch"}).status_code == 422


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1000000000", "x"])
@pytest.mark.parametrize("path", LISTS)
def test_a_page_has_1_to_100_entries(path: str, limit: str, web: Inside) -> None:
    assert web.ask("GET", path, params={"limit": limit}).status_code == 422


def test_a_cursor_is_of_one_tenant_list_and_filter(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required", **PLENTY) as web:
        mine, theirs = web.key("mine"), web.key("theirs")
        for path in LISTS:
            for number in range(2):
                make(web, path, mine, number)
                make(web, path, theirs, number)

        def asked(path: str, key: str, **params: Any) -> Any:
            return web.ask("GET", path, key, params={"limit": 1, **params})

        cursor = asked(LISTS[0], mine).json()["next"]
        other = asked(LISTS[0], theirs).json()["next"]
        assert asked(LISTS[0], mine, after=cursor).status_code == 200
        text, _, signature = cursor.partition(".")
        forged = (
            "",
            "x",
            ".",
            text,
            f"{text}.",
            f"{text}.{'A' * 43}",
            f"{other.partition('.')[0]}.{signature}",
            f"{text[:-2]}AA.{signature}",
            "\xff.\xff",
            "rec_" + "0" * 26,
        )
        for after in forged:
            refused = asked(LISTS[0], mine, after=after)
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
            assert refused.json()["errors"][0]["pointer"] == "/after"
        assert asked(LISTS[0], theirs, after=cursor).status_code == 422
        assert asked(LISTS[0], mine, after=cursor, status="queued").status_code == 422
        for path in LISTS[1:]:
            assert asked(path, mine, after=cursor).status_code == 422
        filtered = asked(LISTS[0], mine, status="queued").json()["next"]
        assert asked(LISTS[0], mine, status="queued", after=filtered).status_code == 200


# --- deleting ---


def test_a_job_is_deleted_with_all_that_belongs_to_it(web: Inside) -> None:
    job = make(web, LISTS[0], None, 0)
    path = f"{LISTS[0]}/{job}"
    live = web.ask("DELETE", path)
    assert (live.status_code, live.json()["code"]) == (409, "conflict_in_use")
    finish(web, job)
    journal = web.store.settings.scratch / "journal" / job
    journal.mkdir(parents=True)
    (journal / "x").write_text("x", "ascii")
    assert count(web, "trials") == 1
    gone = web.ask("DELETE", path)
    assert (gone.status_code, gone.content) == (204, b"")
    assert not journal.exists()
    for table in ("jobs", "trials", "events"):
        assert count(web, table) == 0
    assert web.ask("GET", path).status_code == web.ask("DELETE", path).status_code == 404


@pytest.mark.parametrize("part", ["model", "data"])
def test_what_a_live_job_uses_stays(part: str, web: Inside) -> None:
    path = "/v1/models" if part == "model" else "/v1/datasets"
    names = {"model": make(web, "/v1/models", None, 0), "data": make(web, "/v1/datasets", None, 0)}
    request = {name: {"kind": "ref", "id": value} for name, value in names.items()}
    job = made(web, LISTS[0], json=request)["id"]
    refused = web.ask("DELETE", f"{path}/{names[part]}")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict_in_use")
    assert web.ask("GET", f"{path}/{names[part]}").status_code == 200
    web.ask("POST", f"{LISTS[0]}/{job}/cancel")
    assert web.ask("DELETE", f"{path}/{names[part]}").status_code == 204
    assert web.ask("GET", f"{path}/{names[part]}").status_code == 404


def test_bytes_go_with_the_last_data_set_that_has_them(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required") as web:
        keys = [web.key("a"), web.key("b")]
        names = [made(web, "/v1/datasets", key, **data())["id"] for key in keys]

        def blobs() -> list[Path]:
            return [path for path in web.store.settings.blobs.rglob("*") if path.is_file()]

        assert len(blobs()) == 1
        assert web.ask("DELETE", f"/v1/datasets/{names[0]}", keys[0]).status_code == 204
        assert len(blobs()) == 1
        assert web.ask("DELETE", f"/v1/datasets/{names[1]}", keys[1]).status_code == 204
        assert blobs() == []


def test_a_sample_cannot_be_deleted(web: Inside) -> None:
    assert web.ask("DELETE", "/v1/datasets/sample:digits").status_code == 422


# --- quotas ---


def test_a_key_has_two_jobs_that_live(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required") as web:
        key, colleague = web.key("t"), web.key("t")
        first = make(web, LISTS[0], key, 0)
        make(web, LISTS[0], key, 1)
        third = web.ask("POST", LISTS[0], key, json=DIGITS)
        assert (third.status_code, third.json()["code"]) == (429, "quota_exceeded")
        assert int(third.headers["retry-after"]) > 0
        make(web, LISTS[0], colleague, 2)
        web.ask("POST", f"{LISTS[0]}/{first}/cancel", key)
        make(web, LISTS[0], key, 3)


def test_where_no_keys_are_asked_for_nobody_is_counted(web: Inside) -> None:
    for number in range(15):
        make(web, LISTS[0], None, number)
    assert "ratelimit" not in web.ask("GET", LISTS[0]).headers


def test_a_tenant_s_uploads_have_an_end(tmp_path: Path) -> None:
    size = len(npz(**regression()))
    with inside(tmp_path, keys="required", stored_bytes_per_tenant=2 * size + 10) as web:
        key, other = web.key("t"), web.key("o")
        first = made(web, "/v1/datasets", key, **data())["id"]
        made(web, "/v1/datasets", web.key("t"), **data())
        third = web.ask("POST", "/v1/datasets", key, **data())
        assert (third.status_code, third.json()["code"]) == (429, "quota_exceeded")
        made(web, "/v1/datasets", other, **data())
        web.ask("DELETE", f"/v1/datasets/{first}", key)
        made(web, "/v1/datasets", key, **data())


def test_a_disk_that_is_nearly_full_takes_nothing_in(
    web: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make(web, LISTS[0], None, 0)
    monkeypatch.setattr(tables.Store, "free_share", lambda _: 0.01)
    for path, arguments in (
        (LISTS[0], {"json": DIGITS}),
        ("/v1/models", {"json": NET}),
        ("/v1/datasets", data()),
    ):
        full = web.ask("POST", path, **arguments)
        assert (full.status_code, full.json()["code"]) == (507, "storage_full")
    assert web.ask("POST", "/v1/advice", json=DIGITS).status_code == 200
    assert web.ask("POST", f"{LISTS[0]}/{job}/cancel").status_code == 202
    assert web.ask("DELETE", f"{LISTS[0]}/{job}").status_code == 204


def test_a_key_has_so_many_streams(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required", streams_per_key=3, poll_seconds=0.05) as web:
        key, other = web.key(), web.key()
        job = make(web, LISTS[0], key, 0)
        path = f"{LISTS[0]}/{job}/stream"
        headers = {"Authorization": f"Bearer {key}"}
        running = [web.begin("GET", path, headers=headers) for _ in range(3)]
        refused = web.ask("GET", path, key)
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        theirs = web.begin("GET", path, headers={"Authorization": f"Bearer {other}"})
        web.ask("POST", f"{LISTS[0]}/{job}/cancel", key)
        assert {one.result(30).status_code for one in (*running, theirs)} == {200}
        last = web.ask("GET", path, key)
        assert last.status_code == 200, "ended streams are not counted"


# --- rates ---


def test_writing_is_limited_and_told(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required") as web:
        key = web.key()
        answers = [web.ask("POST", "/v1/models", key, json=NET) for _ in range(11)]
        assert [one.status_code for one in answers] == [201] * 10 + [429]
        assert [one.headers["ratelimit-policy"] for one in answers] == ['"writes";q=10;w=60'] * 11
        left = [one.headers["ratelimit"].split(";")[1] for one in answers]
        assert left == [f"r={number}" for number in (*range(9, -1, -1), 0)]
        assert answers[-1].json()["code"] == "rate_limited"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
        assert web.ask("POST", "/v1/models", web.key(), json=NET).status_code == 201
        assert web.ask("GET", "/v1/models", key).status_code == 200


def test_advice_comes_in_bursts_of_120(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required", requests_per_second=0.001) as web:
        key = web.key("t", "advise", "read")
        codes = [web.ask("POST", "/v1/advice", key, json=DIGITS).status_code for _ in range(121)]
        assert codes == [200] * 120 + [429]


def test_a_bucket_fills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("api.rates.time.monotonic", lambda: now)
    rate = Rate("x", 2.0, 4)
    for _ in range(4):
        rate.take("a")
    assert rate.left("a") == 0
    now += 1.5
    assert rate.left("a") == 3
    now += 100
    assert rate.left("a") == 4


def test_buckets_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.rates.MOST_BUCKETS", 100)
    rate = Rate("x", 1e9, 1)
    for number in range(1000):
        rate.take(str(number))
    assert len(rate._buckets) <= 101


# --- old things ---


def test_what_has_expired_goes_unless_it_is_in_use(web: Inside) -> None:
    ended, live = make(web, LISTS[0], None, 0), make(web, LISTS[0], None, 1)
    web.ask("POST", f"{LISTS[0]}/{ended}/cancel")
    model, used = make(web, "/v1/models", None, 0), make(web, "/v1/models", None, 0)
    held, free = make(web, "/v1/datasets", None, 0), make(web, "/v1/datasets", None, 1)
    asked = {"model": {"kind": "ref", "id": used}, "data": {"kind": "ref", "id": held}}
    user = made(web, LISTS[0], json=asked)
    week = 7 * 86400
    assert user["expires_at"] > user["created_at"]
    sweep(web.store)
    assert [count(web, name) for name in ("jobs", "models", "datasets")] == [3, 2, 2]
    with web.store.write() as connection:
        for table in (tables.jobs, tables.models, tables.datasets):
            rows = connection.execute(sa.select(table.c.created_at, table.c.expires_at)).all()
            assert all(row.expires_at - row.created_at == week for row in rows)
            connection.execute(table.update().values(expires_at=time.time() - 1))
    sweep(web.store)
    there = {path: [one["id"] for one in web.ask("GET", path).json()["data"]] for path in LISTS[:3]}
    assert there == {LISTS[0]: [user["id"], live], "/v1/models": [used], "/v1/datasets": [held]}
    assert model not in str(there)
    assert free not in str(there)
    assert len(list(web.store.settings.blobs.glob("*/*"))) == 1


def test_files_that_nobody_refers_to_go(web: Inside) -> None:
    make(web, "/v1/datasets", None, 0)
    stray = web.store.settings.blobs / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left by a kill")
    sweep(web.store)
    assert not stray.exists()
    assert len(list(web.store.settings.blobs.glob("*/*"))) == 1


def test_nothing_expires_where_that_is_wanted(tmp_path: Path) -> None:
    with inside(tmp_path, keep_days=0) as web:
        make(web, "/v1/models", None, 0)
        assert web.ask("GET", "/v1/models").json()["data"][0]["expires_at"] is None
        sweep(web.store)
        assert count(web, "models") == 1


def test_the_janitor_works_while_the_service_runs(
    web: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.janitor import Janitor

    monkeypatch.setattr("api.janitor.PAUSE_SECONDS", 0.02)
    make(web, "/v1/models", None, 0)
    with web.store.write() as connection:
        connection.execute(tables.models.update().values(expires_at=time.time() - 1))
    janitor = Janitor(web.store)
    janitor.start()
    until(lambda: count(web, "models") == 0, "it is gone", 10)
    janitor.stop()
