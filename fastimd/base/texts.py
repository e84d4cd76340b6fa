"""The texts that answers carry in ``msg``.

Those of Fast-IM are as its server wrote them, for clients compare them. Those that fastimd added
are for readers of either language: ``中文 (English)``, where the English may say more. What a hook
gives as its reason is sent as it is. Reasons of close frames are not here: they are names.
"""

from __future__ import annotations

DONE = "操作成功"
RECALLED = "撤回消息成功"
ALREADY_MEMBER = "操作失败"
LOGIN_FAILED = "登录失败"
LOGIN_REQUIRED = "请登录后访问"
TOO_OLD = "无法撤回消息"
NO_SUCH_MESSAGE = "消息不存在"

TOO_MANY_GROUPS = "加入的群组过多 (too many groups)"
NOT_A_MEMBER = "不是该群组的成员 (not a member)"
PRIVATE_GROUP = "该群组仅限指定的用户 (private group)"
NOT_ALLOWED = "没有权限 (not allowed)"
MESSAGE_REFUSED = "消息被拒绝 (message refused)"
RESTRAINED = {
    "banned": "您已被禁止进入该群组",
    "muted": "您已被禁言",
    "mute_all": "该群组已开启全员禁言",
    "slow": "发言过于频繁",
}
"""Why a group's moderators let somebody not in, or not speak."""
HOOK_FAILED = "暂时无法服务 (try again)"
STORE_AWAY = "暂时无法服务 (Redis is away, try again)"
INTERNAL_ERROR = "服务器内部错误 (internal error)"

CHINESE = {
    400: "请求有误",
    403: "禁止访问",
    404: "路径不存在",
    405: "不支持该请求方法",
    408: "请求超时",
    413: "请求体过大",
    426: "不支持该 WebSocket 版本",
    429: "连接过多",
    431: "请求头过长",
    501: "不支持该协议升级",
    503: "暂时无法服务",
}
"""What the statuses say with which requests are refused before they reach a route."""


def of_status(status: int, english: str) -> str:
    """The text of a refusal with this status; ``english`` says what is wrong with the request."""
    chinese = CHINESE.get(status, "请求被拒绝" if status < 500 else "服务器内部错误")
    return f"{chinese} ({english})"


def bad_parameter(name: str, english: str) -> str:
    """The text about a parameter or header field that is missing or malformed."""
    return f"参数 {name} 有误 ({english})"


def restrained(why: str, english: str) -> str:
    """The text about what a group's moderators have decided."""
    return f"{RESTRAINED[why]} ({english})"


def key_unusable(english: str) -> str:
    """The text about a key in Redis that nothing can be done with."""
    return f"数据异常 ({english})"
