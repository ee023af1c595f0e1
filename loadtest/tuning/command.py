"""`python -m loadtest tune`: search, show, and write the winner. Called by the command line."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from loadtest.errors import BadInputError
from loadtest.run_folder import write_whole
from loadtest.tuning.display import show_result
from loadtest.tuning.options import read_overrides
from loadtest.tuning.result import TuneResult, make_result
from loadtest.tuning.search import Search
from loadtest.tuning.tune_file import load_tuning
from loadtest.tuning.winner import render_winner


def tune(arguments: argparse.Namespace) -> int:
    """Search as the options say and return 0 if a winner was found, else 1.

    Raises BadInputError, and Interrupted after Ctrl-C or SIGTERM, when everything that was started has been taken down.
    """
    tuning = load_tuning(arguments.file, read_overrides(arguments))
    folder: Path = arguments.out or Path("runs") / arguments.file.stem
    if arguments.write is not None and not arguments.write.absolute().parent.is_dir():
        raise BadInputError(f"--write: {arguments.write.parent} is not a folder")
    console = Console(stderr=True, highlight=False)
    search = Search(tuning, folder, lambda line: console.print(Text(line), soft_wrap=True))
    search.run(after_round=lambda: _write(folder / "tune.json", _as_json(make_result(search, over=False))))
    result = make_result(search, over=True)
    texts = {folder / "tune.json": _as_json(result)}
    if result.winner is not None:
        winner = render_winner(tuning, search.candidate(result.winner), result)
        texts |= dict.fromkeys([folder / "winner.yaml", *([arguments.write] if arguments.write else [])], winner)
    for path, text in texts.items():
        _write(path, text)
    if arguments.json:
        print(_as_json(result), end="")
    else:
        show_result(result)
        print(*texts, sep="\n")
    return 0 if result.winner is not None else 1


def _as_json(result: TuneResult) -> str:
    return json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as exc:
        raise BadInputError(f"{exc.filename or path}: {exc.strerror}; choose another place") from exc
