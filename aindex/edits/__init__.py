"""What happens to released images: named edits, random edits, and AugLy made to run on today's Pillow and numpy."""

from aindex.edits.named import (
    Attack,
    AttackList,
    Template,
    apply_attack,
    attacks_of,
    default_attacks,
    full_attacks,
    unseen_attacks,
)
from aindex.edits.random_edit import DrawnEdit, apply_drawn_edits, apply_random_edits, draw_random_edits

__all__ = [
    "Attack",
    "AttackList",
    "DrawnEdit",
    "Template",
    "apply_attack",
    "apply_drawn_edits",
    "apply_random_edits",
    "attacks_of",
    "default_attacks",
    "draw_random_edits",
    "full_attacks",
    "unseen_attacks",
]
