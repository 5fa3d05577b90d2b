"""The work of the gateway; nothing here knows Flask, but for the file that owns its database object."""
