"""A stratified sample of a data set's expressions (SPEC 3): joint shares kept within one item, exact size, caps."""

from data_construction.sample.allocate import largest_remainder
from data_construction.sample.draw import Draw, draw
from data_construction.sample.population import Item, Population, read_population
from data_construction.sample.strata import stratum_names
from data_construction.sample.write import write_annotations, write_ids

__all__ = [
    "Draw",
    "Item",
    "Population",
    "draw",
    "largest_remainder",
    "read_population",
    "stratum_names",
    "write_annotations",
    "write_ids",
]
