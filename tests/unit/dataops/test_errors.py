import errno
import pickle
from pathlib import Path

import pytest

from dataops.errors import SourceError, StorageError, UnusableSource, explain_unreadable
from dataops.storage.base import storage_errors


@pytest.mark.parametrize(
    ("number", "retryable"),
    [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EACCES, False), (errno.EROFS, False), (errno.EIO, True)],
)
def test_storage_error_is_retried_only_if_waiting_may_help(number, retryable):
    with pytest.raises(StorageError) as caught, storage_errors("cannot write x", Path("/store")):
        raise OSError(number, "no")
    assert (caught.value.retryable, caught.value.exit_code) == (retryable, 75)


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
