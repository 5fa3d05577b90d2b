"""Avatars, the forms about them, and speech engines."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.schemas.base import Answer

# As services/names.py checks it.
AvatarName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ -]{0,63}$",
        description="Letters, digits, blanks, - and _; it has to be in the list.",
    ),
]
File = Annotated[str, Field(json_schema_extra={"format": "binary"})]


class Avatar(BaseModel):
    """One of the catalogue; services may say more of it."""

    model_config = ConfigDict(extra="allow")

    description: str
    status: str
    clone: bool
    support_clone: bool
    timbre: str | None = None
    tts_model: str | None = None
    avatar_model: str | None = None
    avatar_blur: bool | str | None = None
    created_at: str | None = None


class AvatarChoice(BaseModel):
    avatar_name: AvatarName


class AvatarStart(AvatarChoice):
    wait: str = Field(
        "", pattern=r"^[0-9]{0,6}$", description="Seconds to wait in line where every avatar is taken."
    )


class AvatarRemoval(BaseModel):
    name: AvatarName


class NewAvatar(BaseModel):
    name: AvatarName
    prompt_face: File = Field(description="mp4, avi, mov or mkv, at most 100 MB.")
    prompt_voice: str | File = Field(
        "", description="wav, at most 50 MB, where a voice is cloned; else an empty text field."
    )
    avatar_blur: Literal["true", "false", "null", ""] = ""
    support_clone: Literal["true", "false", "null", ""] = ""
    timbre: str = ""
    ref_text: str = Field("", description="What is said in prompt_voice.")
    description: str = ""
    tts_model: str = Field("", description="Full name of a speech engine.")
    avatar_model: Literal["MuseTalk", "Wav2Lip", "SyncNet", ""] = ""


class Started(Answer):
    status: Literal["success"]
    avatar_id: str = Field(description="The manager's name for the instance; users may share one.")
    port: int
    webrtc_url: str = Field(description="Where the gateway takes signalling calls to it.")
    gpu: int | str | None
    connections: int
    is_new_instance: bool
    message: str


class Released(Answer):
    status: Literal["success"]
    message: str
    msg: str


class Added(Answer):
    status: Literal["success"]
    message: str
    image_path: str


class Deleted(Answer):
    status: Literal["success"]
    message: str


class SpeechModel(BaseModel):
    """One speech engine, as the operator's file tells."""

    model_config = ConfigDict(extra="allow")

    full_name: str | None = None
    clone: bool | None = None
    status: str | None = None
    license: str | None = None
    timbres: list[str] | None = Field(None, description="Null where the engine clones voices.")
    cur_timbre: str | None = None
