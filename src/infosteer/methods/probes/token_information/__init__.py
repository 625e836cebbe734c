"""Token information: how much the memories in use tell about the token that uses them."""

from infosteer.methods.probes.token_information.method import TokenInformation, TokenObserver, token_information

__all__ = ["TokenInformation", "TokenObserver", "token_information"]
