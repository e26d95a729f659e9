"""Strikes a rank at a chosen place of a run; Python imports a module of this name by itself at its start.

$STRIKE is a JSON object: ``pause`` (seconds before each step of the job's first life, on every rank), and, for one
rank in that life, ``rank``, ``where`` (backward, write, publish, latest), ``step`` and ``signal``. What is struck is
the real code at that place; nothing else of it is changed.
"""

import json
import os
import signal
import time

from tests.import_hook import after_import

STRIKE = json.loads(os.environ.get("STRIKE") or "{}")
FIRST_LIFE = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
MINE = "where" in STRIKE and FIRST_LIFE and os.environ.get("SLURM_PROCID") == str(STRIKE["rank"])


def strike(where, step):
    if MINE and STRIKE["where"] == where and STRIKE["step"] == step:
        open(os.environ["ELECTRA_DS_LIFE"] + "/struck", "w").close()
        os.kill(os.getpid(), getattr(signal, STRIKE["signal"]))
        time.sleep(0.2)  # a signal that is only remembered: the next lines must see it


def before(owner, name, action):
    original = getattr(owner, name)

    def replaced(*args, **kwargs):
        action(*args)
        return original(*args, **kwargs)

    setattr(owner, name, replaced)


def patch_loop(module):
    before(module.Trainer, "_step", lambda self, plan, step, *_: time.sleep(STRIKE.get("pause", 0)))
    before(module.Trainer, "_clip", lambda self: strike("backward", self.state.step + 1))


def patch_checkpoint(module):
    saving = []
    before(module.Saver, "begin", lambda self, state: saving.append(state.step))
    before(module.Saver, "_publish", lambda self, underway, *_: strike("publish", underway.state.step))
    before(module, "atomic_write", lambda *_: strike("latest", saving[-1]))
    from electra_ds.training import writer

    before(writer._HashingFile, "write", lambda self, data: self.bytes > 0 and strike("write", saving[-1]))


PATCHES = {"electra_ds.training.loop": patch_loop, "electra_ds.training.checkpoint": patch_checkpoint}


if STRIKE and FIRST_LIFE and "ELECTRA_DS_LIFE" in os.environ:
    after_import(PATCHES)
