"""Who asks: the claims of dCMMS's access tokens, and what each role may do."""

import time
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated

import jwt
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

from gateway.errors import ApiError

SUPER_ADMIN = "super_admin"
# Which roles have which permission.
READ, MATERIALIZE = "ml.features.read", "ml.features.materialize"
ROLES = {
    READ: frozenset({SUPER_ADMIN, "tenant_admin", "site_manager", "operator"}),
    MATERIALIZE: frozenset({SUPER_ADMIN, "tenant_admin"}),
}
LONGEST_TOKEN = 8192
# A token that is good for longer was not made by dCMMS.
LONGEST_LIFE_SECONDS = 366 * 86_400

_Text = Annotated[StrictStr, Field(min_length=1, max_length=256)]


class Caller(BaseModel):
    """The claims of a valid access token. Others that it has are passed over."""

    model_config = ConfigDict(frozen=True)

    id: _Text
    tenantId: Annotated[StrictStr, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
    email: _Text
    username: _Text
    role: _Text
    exp: StrictInt | StrictFloat

    @property
    def tenant(self) -> str | None:
        """The tenant whose assets this caller may see, None for those of all."""
        return None if self.role == SUPER_ADMIN else self.tenantId.lower()


class Authenticator:
    """Tells callers by the secret that dCMMS signs its tokens with."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        # A client sends the same token again and again, and verifying one costs as much as answering.
        self._verified = lru_cache(1024)(self._verify)

    def caller(self, authorization: str | None) -> Caller:
        """Return who sends this header; raises `ApiError` 401 for anything but a valid access token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("an access token is needed: Authorization: Bearer ...")
        if len(token) > LONGEST_TOKEN:
            raise _unauthorized("the token is not valid")
        caller = self._verified(token)
        if caller.exp <= time.time():
            raise _unauthorized("the token has expired")
        return caller

    def _verify(self, token: str) -> Caller:
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"], options={"require": ["exp"]})
            kinds = [claims[name] for name in ("type", "tokenType", "token_type", "token_use") if name in claims]
            caller = Caller.model_validate(claims)
        except jwt.ExpiredSignatureError:
            raise _unauthorized("the token has expired") from None
        except (jwt.PyJWTError, ValidationError, ValueError, TypeError, OverflowError, RecursionError):
            raise _unauthorized("the token is not valid") from None
        if any(kind != "access" for kind in kinds) or caller.exp > time.time() + LONGEST_LIFE_SECONDS:
            raise _unauthorized("the token is no access token")
        return caller


def require(caller: Caller, permission: str) -> None:
    """Raise `ApiError` 403 where the role of `caller` does not have `permission`."""
    if caller.role not in ROLES[permission]:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"the role may not do this: it needs {permission}",
            requiredPermissions=[permission],
        )


def _unauthorized(message: str) -> ApiError:
    return ApiError(HTTPStatus.UNAUTHORIZED, message, {"WWW-Authenticate": "Bearer"})
