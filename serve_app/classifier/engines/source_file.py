"""A file that is read once: what is looked through, hashed and given to a framework are the same bytes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from serve_app.classifier.engines.download import obtain_file
from serve_app.classifier.model_cache import checked_sha256
from serve_app.classifier.settings import shown
from serve_app.errors import Fault, SetupError


@dataclass(frozen=True)
class SourceFile:
    """A copy that nobody else writes."""

    path: Path
    sha256: str


@contextmanager
def copied(field: str, source: str, sha256: str | None) -> Iterator[SourceFile]:
    """Yield a copy of the file that `source` names, alone in a folder: a path that it contains leads nowhere.

    `sha256` is that of the file for which the model is prepared. Raises SetupError if the file cannot be had, or is
    another one by now.
    """
    original = obtain_file(field, source, sha256)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / original.name  # Keras reads a file as its name ends
        try:
            shutil.copyfile(original, copy)
        except OSError as exc:
            what = f"{original} cannot be read: {exc.strerror or exc}"
            raise SetupError(Fault(field, what, "correct the path")) from exc
        actual = checked_sha256(copy, None, field)
        if sha256 is not None and actual != sha256:
            what = f"{shown(source)} changed while the model was prepared from it"
            raise SetupError(Fault(field, what, "start again once it is complete; replace it by renaming a whole file"))
        yield SourceFile(copy, actual)
