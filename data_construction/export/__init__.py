"""Traces as trainers want them, and back: verl's parquet, LLaMA-Factory's ShareGPT, VTS-CoT as released."""

from data_construction.export.formats import export, format_names, import_traces
from data_construction.export.images import ImageStore
from data_construction.export.records import read_records

__all__ = ["ImageStore", "export", "format_names", "import_traces", "read_records"]
