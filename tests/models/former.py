"""A database as the backend before this gateway made it, with people and conversations in it."""

from sqlalchemy import Connection, text

# As `sqlite3 app.db .schema` printed them, and nearly as PostgreSQL takes them.
TABLES = (
    """CREATE TABLE "user" (id {serial}, email VARCHAR(80) NOT NULL UNIQUE,
       password_hash VARCHAR({hash}) NOT NULL, role VARCHAR(20), status VARCHAR(20),
       created_at TIMESTAMP, last_login TIMESTAMP)""",
    """CREATE TABLE user_profile (id {serial}, user_id INTEGER NOT NULL UNIQUE
       REFERENCES "user" (id) ON DELETE CASCADE,
       username VARCHAR(50), full_name VARCHAR(50), bio TEXT, avatar_url VARCHAR(200), phone VARCHAR(20),
       created_at TIMESTAMP, updated_at TIMESTAMP)""",
    """CREATE TABLE user_action_log (id {serial}, operator_email VARCHAR(120) NOT NULL, role VARCHAR(120),
       action VARCHAR(20) NOT NULL, target_user_id INTEGER, target_user_email VARCHAR(120), reason TEXT,
       details JSON, "timestamp" TIMESTAMP)""",
    """CREATE TABLE safeguard (id {serial}, user_id INTEGER, username VARCHAR(50), guardrail TEXT,
       "timestamp" TIMESTAMP)""",
    """CREATE TABLE session (id {serial}, user_id INTEGER NOT NULL
       REFERENCES "user" (id) ON DELETE CASCADE,
       title VARCHAR(120), created_at TIMESTAMP,
       updated_at TIMESTAMP, is_favorite BOOLEAN, message_count INTEGER)""",
    """CREATE TABLE message (id {serial}, session_id INTEGER NOT NULL
       REFERENCES session (id) ON DELETE CASCADE,
       role VARCHAR(20) NOT NULL, file_type VARCHAR(20), file_path VARCHAR(200), content TEXT,
       created_at TIMESTAMP)""",
    """CREATE TABLE notification (id {serial}, user_id INTEGER NOT NULL
       REFERENCES "user" (id) ON DELETE CASCADE,
       title VARCHAR(120) NOT NULL, message TEXT NOT NULL, type VARCHAR(20),
       is_read BOOLEAN, created_at TIMESTAMP)""",
)
ROWS = (
    """INSERT INTO "user" VALUES (3, ' Ann@School.example', '{hash}', 'student', 'active',
       '2025-03-01 08:00:00', '2025-06-01 09:30:00')""",
    """INSERT INTO "user" VALUES (7, 'ann@school.example', '{hash}', 'admin', NULL, NULL, NULL)""",
    """INSERT INTO "user" VALUES (12, 'tom@school.example', '{hash}', 'tutor', 'banned',
       '2025-03-01 08:00:00', NULL)""",
    """INSERT INTO user_profile VALUES (1, 3, 'ann', 'Ann Example', 'bio', '/somewhere/user_3.jpg',
       '123',
       '2025-03-01 08:00:00', NULL)""",
    """INSERT INTO user_action_log VALUES (5, 'tom@school.example', 'tutor', 'update', 3,
       'ann@school.example', NULL, '{{"status": ["active", "banned"]}}', '2025-04-01 08:00:00')""",
    """INSERT INTO safeguard VALUES (1, 3, 'ann', 'kept', '2025-04-01 08:00:00')""",
    """INSERT INTO session VALUES (21, 3, 'Physics', '2025-05-01 08:00:00', NULL, {true}, 2)""",
    """INSERT INTO message VALUES (31, 21, 'user', NULL, NULL, 'why?', '2025-05-01 08:00:00')""",
    """INSERT INTO message VALUES (32, 21, 'assistant', NULL, NULL, '因为', '2025-05-01 08:00:00')""",
    """INSERT INTO notification VALUES (41, 12, 'Hello', 'there', NULL, {false}, '2025-05-01 08:00:00')""",
)


def fill(connection: Connection, password_hash: str) -> None:
    """Make the former tables and some rows in an empty database."""
    sqlite = connection.dialect.name == "sqlite"
    words = {
        "serial": "INTEGER PRIMARY KEY" if sqlite else "SERIAL PRIMARY KEY",
        # SQLite does not mind the length; PostgreSQL would have.
        "hash": 128 if sqlite else 255,
        "true": "1" if sqlite else "true",
        "false": "0" if sqlite else "false",
    }
    for statement in TABLES:
        connection.execute(text(statement.format(**words)))
    for statement in ROWS:
        connection.execute(text(statement.format(**(words | {"hash": password_hash})).replace(":", "\\:")))
