"""Who lives where: reads the configuration, YAML files and FHIR resources, and hands out unchanging snapshots."""

from broker.core.resolution import How, Lookup, Resolution, State
from broker.directory.directory import Directory
from broker.directory.problem import DirectoryProblem
from broker.directory.resources import as_fhir
from broker.directory.server import Freshness, SourceState
from broker.directory.snapshot import Changed, Entry, Listed, Mode, Snapshot, changed_names
from broker.directory.source import ServerSource

__all__ = [
    "Changed",
    "Directory",
    "DirectoryProblem",
    "Entry",
    "Freshness",
    "How",
    "Listed",
    "Lookup",
    "Mode",
    "Resolution",
    "ServerSource",
    "Snapshot",
    "SourceState",
    "State",
    "as_fhir",
    "changed_names",
]
