"""Training-time markers: what a row is like, told before its answer; levers at inference, or the model's own plan."""

from infosteer.methods.data.markers.lists import HiddenList, add_list, edited_list, read_list, write_list
from infosteer.methods.data.markers.method import Markers
from infosteer.methods.data.markers.tagging import tag_rows, tagging_prompt

__all__ = ["HiddenList", "Markers", "add_list", "edited_list", "read_list", "tag_rows", "tagging_prompt", "write_list"]
