"""Signing in: credentials for a token."""

from backend.errors import NotAuthenticated
from backend.services.accounts import Accounts
from backend.services.tokens import Tokens


async def sign_in(accounts: Accounts, tokens: Tokens, email: str, password: str) -> str:
    """Return a new token for these credentials; the user's earlier one ends. Raises NotAuthenticated."""
    account = await accounts.authenticate(email, password)
    try:
        return await tokens.issue(account)
    except NotAuthenticated:
        # The stored hash is another one by now. Whether of another password, the credentials tell: a worker
        # of another release may have renewed it.
        return await tokens.issue(await accounts.authenticate(email, password))
