"""Makes the loss or the gradient of chosen steps NaN or infinite; Python imports a module of this name at its start.

$POISON is a JSON object: ``steps``, ``rank``, ``micro`` (number of the micro-batch) and ``what``: activations (from the
embeddings on all is NaN), infinite (a loss whose gradient stays finite) or gradient (the loss stays what it is).
"""

import json
import os

from tests.import_hook import after_import

POISON = json.loads(os.environ.get("POISON") or "{}")
now = {"step": 0, "micro": 0}


def patch_loop(module):
    original = module.Trainer._step

    def step(self, plan, number, *rest):
        now.update(step=number, micro=0)
        original(self, plan, number, *rest)

    module.Trainer._step = step


def patch_electra(module):
    import torch

    class NanBackward(torch.autograd.Function):
        @staticmethod
        def forward(context, loss):
            return loss.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("nan")

    original = module.Electra.forward

    def forward(self, batch):
        mine = False
        if self.training:
            micro, now["micro"] = now["micro"], now["micro"] + 1
            mine = os.environ.get("RANK") == str(POISON["rank"]) and micro == POISON["micro"]
        if not mine or now["step"] not in POISON["steps"]:
            return original(self, batch)
        if POISON["what"] == "activations":
            hook = self.embeddings.register_forward_hook(lambda module, given, states: states * float("nan"))
            output = original(self, batch)
            hook.remove()
            return output
        output = original(self, batch)
        if POISON["what"] == "gradient":
            output["loss"] = NanBackward.apply(output["loss"])
        else:
            output["loss"] = output["loss"] + float("inf")
            output["statistics"][1] = float("inf")
        return output

    module.Electra.forward = forward


PATCHES = {"electra_ds.training.loop": patch_loop, "electra_ds.model.electra": patch_electra}


if POISON:
    after_import(PATCHES)
