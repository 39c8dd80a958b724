import errno
import os
import pickle
from pathlib import Path

import pytest

from dataops.errors import (
    ConfigError,
    PairmillError,
    SourceError,
    StorageError,
    UnusableSource,
    explain_unreadable,
    writing,
)
from dataops.storage.base import storage_errors


@pytest.mark.parametrize(
    ("number", "retryable"),
    [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EACCES, None), (errno.EROFS, None), (errno.EIO, True)],
)
def test_storage_error_is_retried_only_if_waiting_may_help(number, retryable):
    kind = ConfigError if retryable is None else StorageError
    with pytest.raises(kind, match="cannot write x: no") as caught, storage_errors("cannot write x", Path("/store")):
        raise OSError(number, "no")
    assert caught.value.retryable is bool(retryable)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), UnusableSource),
        (PermissionError(errno.EACCES, "Permission denied"), UnusableSource),
        (EOFError("Compressed file ended early"), UnusableSource),
        (OSError("damaged gzip"), UnusableSource),
        (OSError(errno.EIO, "Input/output error"), SourceError),
        (OSError(errno.ESTALE, "Stale file handle"), SourceError),
    ],
)
def test_unreadable_file_is_retried_only_if_its_disk_failed(error, kind):
    found = explain_unreadable("a.warc", error)
    assert type(found) is kind
    assert found.retryable is (kind is SourceError)
    assert str(found) == f"cannot read a.warc: {getattr(error, 'strerror', None) or error}"


def test_error_of_a_worker_process_keeps_whether_it_is_retryable():
    for error in (SourceError("x", retryable=False), UnusableSource("x"), SourceError("x")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, copy.retryable) == (type(error), error.args, error.retryable)


@pytest.mark.parametrize(
    ("number", "path", "code", "message"),
    [
        (errno.ENOSPC, "out", 75, "cannot write out/x: No space left on device; free disk space, or name a place"),
        (errno.EROFS, None, 2, "cannot open out/x: Read-only file system; name a place"),
        (errno.ENAMETOOLONG, None, 2, "cannot open out/x: File name too long; name a place"),
        (errno.ENOENT, "out", 2, "cannot write out/x: No such file or directory; name a place"),
    ],
)
def test_file_that_cannot_be_written_is_named_with_the_remedy(number, path, code, message):
    with pytest.raises(PairmillError, match=message) as raised, writing(path):
        raise OSError(number, os.strerror(number), "out/x")
    assert raised.value.exit_code == code


def test_full_disk_is_retryable_where_the_error_names_no_file():
    with pytest.raises(StorageError, match="No space left on device; free disk space, or name a place"), writing():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
