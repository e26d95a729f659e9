"""What a batch script reads after ``electra-ds doctor --preflight``.

``$ELECTRA_DS_LIFE/preflight.json`` holds ``{"good_nodes": [...], "bad_nodes": {node: reason}}``. It is there if the
nodes decide what follows: exit status 0 if all are good, 79 (`electra_ds.lives.BAD_NODES`) if some are bad. With
status 2 something is bad that other nodes would not mend, and there is no file: not to be tried elsewhere.

srun may return another status than the first rank's: 137 or 143 if it killed a rank that hung. So go by the file, and
let srun not wait for such a rank (``--kill-on-bad-exit=1``, or ``--wait=60``).

The first rank writes the file, so where its own node is bad there are three cases. It cannot be reached, but lives: it
sees that nobody came and blames itself. It differs from the rest (versions, a missing mount): found like any other
node. It is dead or its rank never started: the other ranks end with 79 and an error that names its address, srun says
what became of the first task, and *there is no file*: with none after a status other than 0 and 2, take the first node
of the step for the bad one.
"""

from __future__ import annotations

from collections.abc import Sequence

from electra_ds.doctor.coordinator import Gathered
from electra_ds.doctor.findings import Finding, bad_nodes, exit_status
from electra_ds.errors import UserError
from electra_ds.files import write_json
from electra_ds.lives import LIFE_VARIABLE, USER_ERROR, life_folder

PREFLIGHT_NAME = "preflight.json"


def write_preflight(got: Gathered, findings: Sequence[Finding]) -> None:
    """Leave the verdict on the nodes in this life's folder; nothing where it is not theirs to decide.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = life_folder()
    if folder is None or exit_status(findings, preflight=True) == USER_ERROR:
        return
    bad = bad_nodes(findings)
    names = list(dict.fromkeys([*got.expected, *(got.node_of[rank] for rank in sorted(got.node_of))]))
    value = {"good_nodes": [node for node in names if node not in bad], "bad_nodes": bad}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PREFLIGHT_NAME, value)
    except OSError as error:
        raise UserError(f"{LIFE_VARIABLE}={folder}: {PREFLIGHT_NAME} cannot be written ({error})") from error
