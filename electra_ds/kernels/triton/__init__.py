"""The operations as Triton kernels, for CUDA GPUs; under TRITON_INTERPRET=1 they run anywhere, slowly.

Modules carry the names of the rooms they serve: `layer_norm`, `gelu`, `discriminator`, `vocabulary`; `hashing` is the
dropout of `electra_ds.kernels.dropout` inside a kernel, `checks` what all of them ask of their inputs. What holds for
every kernel here:

- Arithmetic, statistics and sums are float32 whatever the inputs are; a value is rounded once, when it is written.
- Nothing is saved for the backward pass but inputs and a few float32 numbers a row: the rest is computed again, which
  costs less than reading it.
- No atomics. A sum over rows (the gradient of a bias) is written as partial sums, one row a program, and added up by
  torch: two runs on the same inputs give the same bits.
- Launch shapes follow from the tensors' shapes alone. Nothing is tuned at run time, since another tile is another order
  of summation.
- Each operation is a `torch.library.custom_op` with a fake and an autograd formula: torch.compile keeps it whole, and
  CUDA graphs record it. No second derivatives.
"""

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError(
        "package 'triton' cannot be imported, and the kernels' backend triton needs it; install it "
        "(pip install triton; Linux only), or set kernels.* to auto or torch"
    ) from error
