"""The load script: many users, what they wait, and what that says. It knows gateways by HTTP only."""
