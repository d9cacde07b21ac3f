"""The stages of a run as typed Prefect tasks, one verb a file. Imports blocks and schemas.

Every process that runs a part of a flow imports this: what it logs, here and at Prefect's server, holds no keys.
"""

from sightflow.schemas.redaction import redact_logs

redact_logs()
