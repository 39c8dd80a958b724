"""The tables below `[train]`, one module each. The orchestrator reads them: no torch here."""
