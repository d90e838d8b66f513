"""FHIR on the wire: bytes to values and values to bytes, from DSTU2 to R6."""
