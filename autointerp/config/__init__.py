"""The configuration of a run: one TOML file, one frozen class per section.

`load_config` reads the file, applies `--set section.key=value` overrides and checks every key and
value; a mistake becomes one `UserError` line naming the key, what was seen and what is accepted.
Sections of explainers, scorers and models hold the options of plug-ins that register themselves
elsewhere: they stay plain tables here and are checked against the plug-in's own class with
`parse_table` before any work starts.
"""

from autointerp.config.mistakes import describe_type
from autointerp.config.reading import load_config, parse_table
from autointerp.config.section import Section, digest, not_a_result, section_of
from autointerp.config.sections import (
    CacheConfig,
    CorpusConfig,
    DictionaryConfig,
    EngineConfig,
    ExplainConfig,
    Latents,
    ModelsConfig,
    ReportConfig,
    ReservoirConfig,
    RunConfig,
    SampleConfig,
    ScoreConfig,
    Strategy,
    SubjectConfig,
)

__all__ = [
    "CacheConfig",
    "CorpusConfig",
    "DictionaryConfig",
    "EngineConfig",
    "ExplainConfig",
    "Latents",
    "ModelsConfig",
    "ReportConfig",
    "ReservoirConfig",
    "RunConfig",
    "SampleConfig",
    "ScoreConfig",
    "Section",
    "Strategy",
    "SubjectConfig",
    "describe_type",
    "digest",
    "load_config",
    "not_a_result",
    "parse_table",
    "section_of",
]
