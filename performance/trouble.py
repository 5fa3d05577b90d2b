"""What goes wrong on the way to a gateway, in words that say what to change."""

from pyreqwest.exceptions import ConnectTimeoutError, DetailedPyreqwestError, PyreqwestError

# Words of the client library -> what a tester can do; the first that fits counts.
ADVICE = (
    (
        "UnknownIssuer",
        "its certificate comes from an authority that is not known here: give that one with --ca",
    ),
    ("CaUsedAsEndEntity", "its certificate is an authority's own: it needs one with CA:FALSE"),
    ("NotValidForName", "its certificate is for another name: use that one in --base-url"),
    ("certificate expired", "its certificate has expired"),
    ("Expired", "its certificate has expired"),
    ("invalid peer certificate", "its certificate is not accepted"),
    ("corrupt message", "it does not speak TLS there: try http://"),
    ("InvalidContentType", "it does not speak TLS there: try http://"),
    ("Connection refused", "nothing listens there; the demo is started with run.py --demo"),
    ("dns error", "its name is not known"),
    ("failed to lookup address", "its name is not known"),
)


def broken_off(error: PyreqwestError) -> str:
    """Return the kind of a failure and its innermost cause."""
    causes = (error.details["causes"] or []) if isinstance(error, DetailedPyreqwestError) else []
    return f"{type(error).__name__}: {causes[-1]['message'] if causes else error.message}"


def advice(error: PyreqwestError) -> str:
    """Return what to do about it, or nothing."""
    causes = (error.details["causes"] or []) if isinstance(error, DetailedPyreqwestError) else []
    text = " ".join([error.message, *(cause["message"] for cause in causes)])
    for words, sentence in ADVICE:
        if words in text:
            return sentence
    if "Too many open files" in text or "os error 24" in text:
        return "this system allows no more open files: ulimit -n"
    if "os error 99" in text:
        return "this machine has no local ports left towards it"
    return "it cannot be reached in time" if isinstance(error, ConnectTimeoutError) else ""
