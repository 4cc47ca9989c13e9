"""The loopback Hub, met with the clients as they are installed, each in a process of its own."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_hub import LoopbackHub


REPO = "tester/things"


@pytest.fixture(params=[False, True], ids=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.xet = request.param
        yield hub


@pytest.fixture
def plain_hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub with one file, for tests that speak HTTP themselves."""
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.write(REPO, {"notes.txt": b"some notes"})
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a large file, a table, a card and text."""
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [loopback]\n---\n# A card\n")
    (folder / "data" / "notes.txt").write_text("some notes\n")
    pq.write_table(pa.table({"x": range(1000), "y": ["abc"] * 1000}), folder / "data" / "train.parquet")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_attributes(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files but for the one with which the Hub starts a repository."""
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def client(
    hub: LoopbackHub, home: Path, script: str, *arguments: object, token: str | None = "hf_writer_token"
) -> str:
    """What a script prints in a process whose Hub is this one."""
    start = "import sys\nfrom huggingface_hub import *\nfrom huggingface_hub.errors import HfHubHTTPError\n"
    end = subprocess.run(
        [sys.executable, "-c", start + script, *map(str, arguments)],
        env=hub.environment(home, token, HF_HUB_DISABLE_PROGRESS_BARS="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert end.returncode == 0, end.stderr
    return end.stdout.strip()


UPLOAD = """
folder, repo_id, repo_type = sys.argv[1:]
create_repo(repo_id, repo_type=repo_type, exist_ok=True)
for attempt in range(2):
    upload_folder(repo_id=repo_id, repo_type=repo_type, folder_path=folder, commit_message="Things")
"""


def test_a_folder_goes_up_once_and_comes_down_equal(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    client(hub, tmp_path / "home", UPLOAD, folder, REPO, "model")
    assert without_attributes(hub.files(REPO)) == contents(folder)
    assert hub.commits(REPO) == ["Things", "initial commit"]

    snapshot = client(hub, tmp_path / "other", f"print(snapshot_download({REPO!r}))", token=None)
    assert without_attributes(contents(Path(snapshot))) == contents(folder)

    size = (folder / "model.safetensors").stat().st_size
    assert any("xet-write-token" in request.path for request in hub.requests) is hub.xet
    assert any(request.received == size for request in hub.requests) is not hub.xet
    assert any("xet-read-token" in request.path for request in hub.requests) is hub.xet
    assert any(request.sent == size for request in hub.requests) is not hub.xet


PULL_REQUEST = """
repo_id, folder = sys.argv[1:]
create_branch(repo_id, branch="other")
upload_folder(repo_id=repo_id, folder_path=folder, revision="other", commit_message="On a branch")
pull = upload_folder(repo_id=repo_id, folder_path=folder, create_pr=True, commit_message="For a pull request")
print(pull.pr_num, pull.pr_revision)
create_tag(repo_id, tag="before")
merge_pull_request(repo_id, pull.pr_num)
delete_file("notes.txt", repo_id)
print(sorted(list_repo_files(repo_id, revision="before")))
"""


def test_branches_tags_and_pull_requests(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    hub.write(REPO, {"notes.txt": b"some notes"})
    printed = client(hub, tmp_path / "home", PULL_REQUEST, REPO, folder)
    assert printed.splitlines() == ["1 refs/pr/1", "['.gitattributes', 'notes.txt']"]
    expected = {"notes.txt": b"some notes", **contents(folder)}
    assert without_attributes(hub.files(REPO, revision="other")) == expected
    assert without_attributes(hub.files(REPO, revision="refs/pr/1")) == expected
    assert without_attributes(hub.files(REPO)) == contents(folder)
    assert hub.pull_requests(REPO) == [1]
    assert hub.commits(REPO, revision="other") == ["On a branch", "Upload notes.txt", "initial commit"]
    assert hub.commits(REPO)[1:] == ["For a pull request (#1)", "Upload notes.txt", "initial commit"]


LOAD = """
import datasets
for streaming in (False, True):
    rows = list(datasets.load_dataset(sys.argv[1], split="train", streaming=streaming))
    print(len(rows), rows[-1])
"""


def test_a_dataset_loads_and_streams(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    (folder / "data" / "notes.txt").unlink()
    client(hub, tmp_path / "home", UPLOAD, folder, REPO, "dataset")
    printed = client(hub, tmp_path / "other", LOAD, REPO, token=None)
    assert printed.splitlines() == ["1000 {'x': 999, 'y': 'abc'}"] * 2


def test_a_failing_commit_reaches_the_user(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.write(REPO, {"notes.txt": b"some notes"})
    hub.fail("500", method="POST", path="/commit/main$")
    script = f"""
try:
    upload_file(path_or_fileobj=bytes(2000), path_in_repo="x.bin", repo_id={REPO!r})
except HfHubHTTPError as error:
    print(error.response.status_code)
"""
    assert client(hub, tmp_path / "home", script) == "500"
    assert hub.commits(REPO) == ["Upload notes.txt", "initial commit"]
    assert [request.status for request in hub.requests if "/commit/" in request.path] == [500]


PERMISSIONS = """
import json
repo_id, secret = sys.argv[1:]
def upload(token):
    upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo_id, token=token)
def read(token):
    model_info(secret, token=token)
found = {}
for call in (upload, read, lambda token: create_repo("tester/new", token=token)):
    found[call] = []
    for token in (False, "hf_stranger_token", "hf_unknown", "hf_writer_token"):
        try:
            call(token)
            found[call].append([200, ""])
        except HfHubHTTPError as error:
            found[call].append([error.response.status_code, type(error).__name__])
print(json.dumps(list(found.values())))
"""


def test_permissions(plain_hub: LoopbackHub, tmp_path: Path) -> None:
    plain_hub.write("tester/secret", {"x": b"x"}, private=True)
    assert plain_hub.is_private("tester/secret") and not plain_hub.is_private(REPO)
    found = json.loads(client(plain_hub, tmp_path / "home", PERMISSIONS, REPO, "tester/secret", token=None))
    missing, other, fine = "RepositoryNotFoundError", "HfHubHTTPError", [200, ""]
    assert found[0] == [[401, missing], [403, other], [401, other], fine]
    assert found[1] == [[401, missing], [404, missing], [401, other], fine]
    assert found[2] == [[401, other], [403, other], [401, other], fine]
    assert plain_hub.exists("tester/new")


def connect(hub: LoopbackHub) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)


def create(connection: http.client.HTTPConnection, name: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    connection.request("POST", "/api/repos/create", json.dumps({"organization": "tester", "name": name}), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_connection_outlives_an_error(plain_hub: LoopbackHub) -> None:
    connection = connect(plain_hub)
    assert create(connection, "new", "hf_stranger_token") == 403
    socket = connection.sock
    plain_hub.fail("503", path="repos/create$")
    assert create(connection, "new", "hf_writer_token") == 503
    connection.request("HEAD", f"/{REPO}/resolve/main/notes.txt")
    head = connection.getresponse()
    assert (head.status, head.read(), head.headers["Content-Length"]) == (200, b"", "10")
    assert create(connection, "new", "hf_writer_token") == 200
    assert connection.sock is socket
    assert [request.status for request in plain_hub.requests] == [403, 503, 200, 200]


@pytest.mark.parametrize("how, exists", [("drop", False), ("drop_after", True)])
def test_a_dropped_connection(plain_hub: LoopbackHub, how: str, exists: bool) -> None:
    plain_hub.fail(how, method="POST")
    with pytest.raises(ConnectionError):
        create(connect(plain_hub), "new", "hf_writer_token")
    assert plain_hub.exists("tester/new") is exists
    assert plain_hub.requests[0].status == 0


def test_a_truncated_and_a_stalled_answer(plain_hub: LoopbackHub) -> None:
    plain_hub.fail("truncate", method="GET")
    plain_hub.fail("stall", method="GET", seconds=0.3)
    connection = connect(plain_hub)
    connection.request("GET", f"/{REPO}/resolve/main/notes.txt")
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    start = time.monotonic()
    connection.close()
    connection.request("GET", f"/{REPO}/resolve/main/notes.txt", headers={"Range": "bytes=5-"})
    assert connection.getresponse().read() == b"notes"
    assert time.monotonic() - start >= 0.3
    assert [request.sent for request in plain_hub.requests] == [5, 5]


def test_a_hub_can_go_away_and_come_back(plain_hub: LoopbackHub) -> None:
    connection = connect(plain_hub)
    assert create(connection, "new", "hf_writer_token") == 200
    plain_hub.stop()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            create(connection, "other", "hf_writer_token")
        connection.close()
    plain_hub.start()
    assert create(connection, "other", "hf_writer_token") == 200
    assert plain_hub.exists("tester/other") and plain_hub.exists(REPO)
    plain_hub.reset()
    assert not plain_hub.exists(REPO) and not plain_hub.requests
