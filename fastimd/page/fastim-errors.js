// What goes wrong, and its reason in the reader's language.
//
// fastimd's own refusals say both, "加入的群组过多 (too many groups)", and a hook may do the same. What it
// has from Fast-IM is Chinese only, for clients compare it, and the live wire's errors are English
// only: of these the tables below have the other language.

/** @type {Record<string, string>} The English of what servers say in Chinese only, or too briefly. */
const ENGLISH = {
  "操作成功": "done",
  "操作失败": "the operation failed",
  "请登录后访问": "log in first",
  "登录失败": "wrong user or password",
  "没有权限": "you are not allowed to do this",
  "撤回消息成功": "the message is recalled",
  "无法撤回消息": "it is too late to recall this message",
  "消息不存在": "this message is gone",
  "消息被拒绝": "the message was refused",
  "too old to be recalled": "it is too late to recall this message",
  "no such message": "this message is gone",
};
/** @type {Record<string, string>} The Chinese of the live wire's errors. */
const CHINESE = {
  "internal server error": "暂时无法服务",
  "permission denied": "没有权限",
  "method not found": "服务端没有此功能",
  "already subscribed": "已在该群组中",
  "limit exceeded": "超出限制",
  "not available": "服务端未启用此功能",
  "token expired": "令牌已过期",
  "too many requests": "发送过于频繁",
  "unrecoverable position": "无法恢复",
  "no such message": "消息不存在",
  "too old to be recalled": "无法撤回消息",
  "only moderators may write now": "目前只有管理员可以发言",
  "not a moderator of this group": "您不是该群组的管理员",
  "this user is a moderator: only an operator can do that": "该用户是管理员，只有运维人员可以这样操作",
  "only operators and holders of the role may change the moderators": "只有运维人员和持有角色令牌的用户可以更改管理员",
};
/** The same of those that name a time or a reason. */
const CHINESE_FORMS = [
  [/^muted(?: until ([\d: -]+ UTC))?(?:: (.*))?$/su, "已被禁言"],
  [/^banned(?: until ([\d: -]+ UTC))?(?:: (.*))?$/su, "已被封禁"],
  [/^slow mode: wait (\d+ s)$/u, "慢速模式，请稍候"],
];
const BOTH = /^(?<chinese>[^(]*[^( ]) ?\((?<english>.*)\)$/su;

/**
 * A server's words in one language: the Chinese part where the language is Chinese, the English one
 * else. What does not say both, and is not known, stays as it is.
 * @param {string} msg
 * @param {string} language  as `navigator.language`: "zh-CN", "en", …
 * @returns {string}
 */
export function inLanguage(msg, language) {
  const { chinese, english } = partsOf(msg);
  if (/^zh\b/i.test(language)) return Object.hasOwn(CHINESE, chinese) ? CHINESE[chinese] : inForm(chinese);
  return Object.hasOwn(ENGLISH, english) ? ENGLISH[english] : english;
}

function inForm(msg) {
  for (const [form, words] of CHINESE_FORMS) {
    const found = form.exec(msg);
    if (!found) continue;
    const [, until, why] = found;
    return words + (until ? `（${until}）` : "") + (why ? `：${why}` : "");
  }
  return msg;
}

// Parentheses alone do not make two languages.
function partsOf(msg) {
  const found = BOTH.exec(msg)?.groups;
  const isBoth = found && /\p{Script=Han}/u.test(found.chinese) && /[a-z]/i.test(found.english);
  return isBoth ? found : { chinese: msg, english: msg };
}

/** The language of who reads, as the browser says. */
export function readersLanguage() {
  return globalThis.navigator?.language ?? "en";
}

/**
 * What went wrong: `code` is the server's (of calls over HTTP see docs/PROTOCOL.md, of all else
 * docs/LIVE.md), or `FastIMError.NO_ANSWER`, or `FastIMError.NOT_ACCEPTED` for what this library
 * itself refuses.
 */
export class FastIMError extends Error {
  static NO_ANSWER = 0;
  static NOT_ACCEPTED = 1;

  /**
   * @param {number} code
   * @param {string} msg       why, in the server's words if they are the server's: to compare
   * @param {string} [reason]  the same in the reader's language: to show
   */
  constructor(code, msg, reason = msg) {
    super(`${code}: ${reason}`);
    this.name = "FastIMError";
    this.code = code;
    this.msg = msg;
    this.reason = reason;
    /** It may succeed when it is tried again. */
    this.isTemporary = false;
  }

  /** The server has answered, and refuses. */
  get isRefusal() {
    return this.code !== FastIMError.NO_ANSWER;
  }
}
