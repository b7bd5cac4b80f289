"""The comparison's page, tables and figures."""
