"""electra_ds: distributed pretraining of ELECTRA encoders with DeepSpeed.

Importing this package imports neither torch nor deepspeed; each room loads them when it is used.
"""

__version__ = "0.1.0"
