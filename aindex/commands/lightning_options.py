"""What the commands of Lightning's trainer have in common: their parser, and how it is called."""

import logging
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from aindex.cli import COMMANDS
from aindex.commands.parsing import OneLineErrors
from aindex.commands.pipeline_help import EXAMPLES


class OptionsParser(OneLineErrors, LightningArgumentParser):
    """The parser of every command, with Lightning's groups."""


class OptionsCLI(LightningCLI):
    """Options of a trainer, a module and a data module, in groups that have titles for people.

    Attributes:
        titles: see `OneLineErrors.sort_groups`.
    """

    titles: Mapping[str, str] = {}
    parser_type = OptionsParser

    def __init__(
        self, command: str, args: list[str], module_class: type, data_class: type, *, usage: str, **more: Any
    ) -> None:
        self.command = command
        for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
            # its own notes: seeds, devices it looked for, tips
            logging.getLogger(name).setLevel(logging.WARNING)
        super().__init__(
            module_class,
            data_class,
            args=args,
            run=False,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": f"aindex {command}",
                "allow_abbrev": False,
                "usage": f"aindex {command} {usage}",
                "description": COMMANDS[command].summary,
            },
            **more,
        )

    def init_parser(self, **kwargs: Any) -> OptionsParser:
        """A parser without the versions that Lightning's would write into configuration files."""
        parser = self.parser_type(**kwargs)
        parser.examples = EXAMPLES[self.command]
        parser.add_config()
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without Lightning's warning about arguments that are given from within Python."""
        assert isinstance(parser, OptionsParser)
        parser.sort_groups(self.titles)
        parser.answer(list(args or ()))
        self.before_parsing()
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def before_parsing(self) -> None:
        """Raise where what is given cannot be meant for this command; there is nothing to see to here."""
