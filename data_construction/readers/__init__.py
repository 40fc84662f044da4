"""Every data set behind one interface; a data set is one stanza in ``data_construction/datasets``."""

from data_construction.readers.dataset import Dataset, open_dataset
from data_construction.readers.records import VTSCoTRecord, read_rl_annotations, read_vts_cot
from data_construction.readers.stanza import Stanza, dataset_names, load_stanza

__all__ = [
    "Dataset",
    "Stanza",
    "VTSCoTRecord",
    "dataset_names",
    "load_stanza",
    "open_dataset",
    "read_rl_annotations",
    "read_vts_cot",
]
