"""The report's sections, one module each, in the order of the page."""

from collections.abc import Callable

from infosteer.inspection.report.section import Context, Section
from infosteer.inspection.report.sections.entropy import make_entropy
from infosteer.inspection.report.sections.geometry import make_geometry
from infosteer.inspection.report.sections.memories import make_memories
from infosteer.inspection.report.sections.regions import make_regions
from infosteer.inspection.report.sections.reproduce import make_reproduce
from infosteer.inspection.report.sections.results import make_results
from infosteer.inspection.report.sections.settings import make_settings
from infosteer.inspection.report.sections.tokens import make_tokens
from infosteer.inspection.report.sections.training import make_training

SECTIONS: tuple[Callable[[Context], Section], ...] = (
    make_results,
    make_training,
    make_entropy,
    make_tokens,
    make_regions,
    make_memories,
    make_geometry,
    make_settings,
    make_reproduce,
)
