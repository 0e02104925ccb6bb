"""A download is complete or goes on where it stopped, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_mlfinetune.common.errors import DownloadError
from aiida_mlfinetune.data.download import download


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "here" / "tiny.model"


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_a_file_arrives_whole_and_says_how_far_it_is(release, target):
    seen = []
    download(release.url, target, report=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == release.content
    assert seen[-1] == (len(release.content), len(release.content))
    assert len(seen) > 1
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_interrupted_download_goes_on_where_it_stopped(release, target):
    half = len(release.content) // 2
    release.cut_after = half
    with pytest.raises(
        DownloadError, match=rf"broke after {half} of {len(release.content)} bytes: run the command again"
    ):
        download(release.url, target)
    assert not target.exists()
    assert part_of(target).read_bytes() == release.content[:half]
    release.cut_after = None
    seen = []
    download(release.url, target, report=lambda done, total: seen.append((done, total)))
    assert release.requests[-1]["Range"] == f"bytes={half}-"
    assert release.requests[-1]["If-Range"] == '"one"'
    assert release.sent == len(release.content)
    assert seen[-1] == (len(release.content), len(release.content))
    assert target.read_bytes() == release.content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_download_may_be_interrupted_more_than_once(release, target):
    release.cut_after = len(release.content) // 3
    for _ in range(2):
        with pytest.raises(DownloadError, match="broke after"):
            download(release.url, target)
    release.cut_after = None
    download(release.url, target)
    assert target.read_bytes() == release.content
    assert release.sent == len(release.content)


def test_parts_of_two_versions_are_never_joined(release, target):
    release.cut_after = 1000
    with pytest.raises(DownloadError):
        download(release.url, target)
    release.cut_after, release.etag = None, '"two"'
    release.content = b"PK" + b"another file" * 5000
    download(release.url, target)
    assert target.read_bytes() == release.content


@pytest.mark.parametrize("fault", [{"etag": ""}, {"etag": 'W/"weak"'}, {"sends_parts": False}])
def test_what_cannot_be_gone_on_with_starts_again(release, target, fault):
    for name, value in fault.items():
        setattr(release, name, value)
    release.cut_after = 1000
    with pytest.raises(DownloadError):
        download(release.url, target)
    release.cut_after = None
    download(release.url, target)
    assert target.read_bytes() == release.content
    assert release.sent == 1000 + len(release.content)


def test_a_part_of_another_address_is_not_gone_on_with(release, target):
    release.cut_after = 1000
    with pytest.raises(DownloadError):
        download(release.url, target)
    release.cut_after = None
    download(release.url.replace("tiny", "other"), target)
    assert "Range" not in release.requests[-1]
    assert target.read_bytes() == release.content


def test_a_part_that_is_longer_than_the_file_is_thrown_away(release, target):
    release.cut_after = 1000
    with pytest.raises(DownloadError):
        download(release.url, target)
    release.cut_after, release.content = None, b"PK" + b"x" * 500
    download(release.url, target)
    assert target.read_bytes() == release.content


def test_a_missing_file_names_address_and_way_out(release, target):
    release.status = 404
    with pytest.raises(DownloadError, match=r"answers 404 .* for http://127.*tiny.model.*model import FILE --trust"):
        download(release.url, target)
    assert not target.exists()


def test_without_a_connection_the_message_says_what_to_do(closed_port, target):
    url = f"http://127.0.0.1:{closed_port}/tiny.model"
    with pytest.raises(
        DownloadError, match=rf"no connection to 127.0.0.1:{closed_port} .*fetch {url} on a machine"
    ) as error:
        download(url, target)
    assert "model fetch NAME --from FILE" in str(error.value)
    assert not target.exists()


def test_a_server_that_does_not_answer_is_given_up(release, target):
    release.hang = 30.0
    with pytest.raises(DownloadError, match="there is no connection to"):
        download(release.url, target, timeout=0.2)


def test_a_web_page_is_not_the_file(release, target):
    release.content, release.content_type = b"<html>please log in</html>", "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page instead of a file"):
        download(release.url, target)
    assert not target.exists()
