"""Who lives where: reads the configuration, YAML files and FHIR resources, and hands out unchanging snapshots."""

from broker.core.resolution import How, Lookup, Resolution, State
from broker.directory.directory import Directory
from broker.directory.problem import DirectoryProblem
from broker.directory.resources import as_fhir
from broker.directory.snapshot import Changed, Entry, Listed, Mode, Snapshot, changed_names

__all__ = [
    "Changed",
    "Directory",
    "DirectoryProblem",
    "Entry",
    "How",
    "Listed",
    "Lookup",
    "Mode",
    "Resolution",
    "Snapshot",
    "State",
    "as_fhir",
    "changed_names",
]
