"""The subject with one latent turned up: its output distribution with a direction added to its activations."""

from __future__ import annotations

from dataclasses import dataclass

from autointerp.config import RunConfig
from autointerp.subject.dictionary import Dictionary, open_dictionary
from autointerp.subject.model import SubjectModel, open_subject


@dataclass(frozen=True, kw_only=True)
class SteeredSubject:
    """A subject and its dictionary, at hand for interventions."""

    subject: SubjectModel
    dictionary: Dictionary

    @classmethod
    def open(cls, config: RunConfig) -> SteeredSubject:
        """Load what `[subject]` and `[dictionary]` name."""
        return cls(
            subject=open_subject(config.subject),
            dictionary=open_dictionary(config.dictionary, config.subject),
        )
