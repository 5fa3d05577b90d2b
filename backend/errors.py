"""Everything that can go wrong, whose fault it is, and what the caller is told.

GatewayError                          source    status  retry is safe
├── InboundError                      client
│   ├── BadRequest                              400     no
│   │   ├── BadTarget                           400     no
│   │   └── BadFraming                          400     no (and the connection ends)
│   ├── NotAuthenticated                        401     no
│   ├── NotAllowed                              403     no
│   ├── NotFound                                404     no
│   ├── MethodNotAllowed                        405     no
│   ├── UploadStalled                           408     no
│   ├── Conflict                                409     no
│   ├── TooLarge                                413     no
│   ├── UnsupportedMedia                        415     no
│   ├── UpgradeRequired                         426     no
│   ├── TooManyRequests                         429     yes
│   └── ClientGone                              499     no (nobody is left to read it)
├── InternalError                     gateway   500     no
├── Overloaded                        gateway   503     yes
├── StoreUnavailable                  gateway   503     yes
├── MailUnavailable                   gateway   503     no
├── StorageFull                       gateway   507     yes
└── UpstreamError                     upstream
    ├── UpstreamRefused                         502     yes (never sent)
    ├── UpstreamConnectTimeout                  504     yes (never sent)
    ├── UpstreamFirstByteTimeout                504     no
    ├── UpstreamIdleTimeout                     504     no
    ├── UpstreamTotalTimeout                    504     no
    ├── UpstreamBroken                          502     no
    ├── UpstreamGarbage                         502     no
    ├── UpstreamRejected                        502     no
    ├── UpstreamBusy                            503     yes
    │   └── NoFreePlace                         503     yes
    ├── AvatarGone                              503     no (start it again first)
    └── UpstreamUnavailable                     503     yes (never sent)

`retryable` in an answer tells the caller that asking again is safe and may help. `sent` tells the
forwarding core whether any byte of the call may have reached the upstream.
"""

from typing import ClassVar, Literal

Source = Literal["client", "gateway", "upstream"]


class GatewayError(Exception):
    """An answer in the making: status, stable code, and a sentence for the person who reads it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    source: ClassVar[Source] = "gateway"
    retryable: ClassVar[bool] = False
    default_msg: ClassVar[str] = "The gateway failed to answer this call."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = None) -> None:
        self.msg = msg or self.default_msg
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.msg)

    @property
    def further(self) -> dict[str, object]:
        """What the answer says beside the fields that every error has."""
        return {}


class InboundError(GatewayError):
    """The caller asked for something that cannot be done as asked."""

    source = "client"


class BadRequest(InboundError):
    status = 400
    code = "bad_request"
    default_msg = "The request is malformed."


class BadTarget(BadRequest):
    code = "bad_target"
    default_msg = "The path of this request is not acceptable."


class BadFraming(BadRequest):
    """Two servers could disagree about where this request ends, or whom it is for."""


class NotAuthenticated(InboundError):
    status = 401
    code = "not_authenticated"
    default_msg = "Please sign in."


class NotAllowed(InboundError):
    status = 403
    code = "not_allowed"
    default_msg = "Your role does not allow this."


class NotFound(InboundError):
    status = 404
    code = "not_found"
    default_msg = "There is nothing here by that name."


class MethodNotAllowed(InboundError):
    status = 405
    code = "method_not_allowed"
    default_msg = "This address does not answer that method."


class UploadStalled(InboundError):
    status = 408
    code = "upload_stalled"
    default_msg = "Upload timeout: no more of the request body arrived."


class Conflict(InboundError):
    status = 409
    code = "conflict"
    default_msg = "This conflicts with the present state."


class TooLarge(InboundError):
    status = 413
    code = "too_large"
    default_msg = "The request body is too large."


class UnsupportedMedia(InboundError):
    status = 415
    code = "unsupported_media"
    default_msg = "This content type or file type is not supported here."


class UpgradeRequired(InboundError):
    status = 426
    code = "websocket_version"
    default_msg = "Only version 13 of the WebSocket protocol is spoken here."


class TooManyRequests(InboundError):
    status = 429
    code = "too_many_requests"
    retryable = True
    default_msg = "Too many requests. Please wait a moment."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 1) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)


class ClientGone(InboundError):
    """The client closed its connection: nobody's error, logged as 499 and never sent."""

    status = 499
    code = "client_gone"
    default_msg = "The client left."


class InternalError(GatewayError):
    pass


class Overloaded(GatewayError):
    """Every place is taken and the queue in front of it is full or too slow."""

    status = 503
    code = "overloaded"
    retryable = True
    default_msg = "The service is busy. Please try again shortly."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 1) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)


class StoreUnavailable(GatewayError):
    """The account database cannot be reached or is locked."""

    status = 503
    code = "store_unavailable"
    retryable = True
    default_msg = "The account store is unavailable. Please try again shortly."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 2) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)


class MailUnavailable(GatewayError):
    """There is nobody to hand mail to: no mail server is set, or the gateway is stopping."""

    status = 503
    code = "mail_unavailable"
    default_msg = "This service cannot send mail. Please ask a tutor for help."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 60) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)


class StorageFull(GatewayError):
    """The disk takes no more."""

    status = 507
    code = "storage_full"
    retryable = True
    default_msg = "There is no room for files at present. Please try again later."


class UpstreamError(GatewayError):
    """An avatar service failed; `sent` is False when no byte of the call can have reached it."""

    source = "upstream"
    status = 502
    code = "upstream_failed"
    sent: ClassVar[bool] = True
    default_msg = "The avatar service failed to answer."


class UpstreamRefused(UpstreamError):
    code = "upstream_refused"
    retryable = True
    sent = False
    default_msg = "The avatar service is not running or refuses connections."


class UpstreamConnectTimeout(UpstreamError):
    status = 504
    code = "upstream_connect_timeout"
    retryable = True
    sent = False
    default_msg = "Connection timeout: the avatar service cannot be reached."


class UpstreamFirstByteTimeout(UpstreamError):
    status = 504
    code = "upstream_first_byte_timeout"
    default_msg = "Answer timeout: the avatar service is still working or stuck. Check again later."


class UpstreamIdleTimeout(UpstreamError):
    status = 504
    code = "upstream_idle_timeout"
    default_msg = "Stream timeout: the avatar service stopped sending."


class UpstreamTotalTimeout(UpstreamError):
    status = 504
    code = "upstream_total_timeout"
    default_msg = "Overall timeout: the avatar service took too long."


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"
    default_msg = "The avatar service broke the connection."


class UpstreamGarbage(UpstreamError):
    code = "upstream_garbage"
    default_msg = "The avatar service gave an answer that makes no sense."


class UpstreamRejected(UpstreamError):
    code = "upstream_rejected"
    default_msg = "The avatar service could not do this."


class UpstreamBusy(UpstreamError):
    status = 503
    code = "upstream_busy"
    retryable = True
    default_msg = "The avatar service has no free place. Please try again shortly."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 5) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)


class NoFreePlace(UpstreamBusy):
    """Every avatar is taken; `position` is the caller's place in the line, None for one who is not in it."""

    code = "no_free_place"
    default_msg = "Every avatar is taken. Please wait for your turn."

    def __init__(
        self, msg: str | None = None, *, retry_after_seconds: int | None = 5, position: int | None = None
    ) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)
        self.position = position

    @property
    def further(self) -> dict[str, object]:
        return {} if self.position is None else {"position": self.position}


class AvatarGone(UpstreamError):
    """The caller's instance has ended: nothing can be said to it until another one is started."""

    status = 503
    code = "avatar_gone"
    sent = False
    default_msg = "Your avatar is no longer running. Please start it again."


class UpstreamUnavailable(UpstreamError):
    """Every address failed so often that calls are kept away for a moment."""

    status = 503
    code = "upstream_unavailable"
    retryable = True
    sent = False
    default_msg = "The avatar service does not answer at present. Please try again shortly."

    def __init__(self, msg: str | None = None, *, retry_after_seconds: int | None = 1) -> None:
        super().__init__(msg, retry_after_seconds=retry_after_seconds)
