"""What a model of the Open Inference Protocol takes, as its server tells it. Used by its workload and the fuzzer."""

import json
import urllib.request
from dataclasses import dataclass

from loadtest.errors import BadInputError
from loadtest.plan.target_key import key_headers

DATATYPES = ("BYTES", "UINT8", "FP32")
"""Those that requests can be made of."""
METADATA_S = 10
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Input:
    """The input of a model, with a size for every dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def read_input(url: str, pictures: int, side: int) -> Input:
    """Return the input of the model at `url`, …/v2/models/MODEL; open sizes become `pictures` and `side`.

    Raises BadInputError if there is no such model, or it takes several inputs or another datatype.
    """
    try:
        with _DIRECT.open(urllib.request.Request(url, headers=key_headers()), timeout=METADATA_S) as answer:
            inputs = json.load(answer)["inputs"]
            found = [Input(each["name"], each["datatype"], tuple(map(int, each["shape"]))) for each in inputs]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadInputError(f"{url} does not tell its inputs ({exc}); name a model of that server") from exc
    if len(found) != 1 or found[0].datatype not in DATATYPES:
        told = ", ".join(f"{each.name} {each.datatype}" for each in found)
        raise BadInputError(
            f"{url} takes {told or 'nothing'}; requests can be made for one input of {', '.join(DATATYPES)}"
        )
    first, *others = found[0].shape or (-1,)
    sizes = (pictures if first < 0 else first, *(side if size < 0 else size for size in others))
    return Input(found[0].name, found[0].datatype, sizes)
