// Every text of the page in both languages.

const WORDS = {
  en: {
    skip: "Skip to content", title: "Avatar console", signIn: "Sign in", signOut: "Sign out", email: "Email",
    password: "Password", avatars: "Avatars", choose: "Choose an avatar to see and hear it.", videoLabel: "The avatar",
    hush: "Stop talking", leave: "End session", conversation: "Conversation", message: "Your question", send: "Send",
    document: "Ask about a document of yours (pdf, doc, docx, txt, xls, xlsx)", uploadIt: "Upload", progress: "Progress",
    newAvatar: "New avatar", name: "Name (letters, digits, blanks)", engine: "Speech engine",
    face: "Video of the face (mp4, up to 100 MB)", voice: "Voice (wav, up to 50 MB, may be left out)", create: "Create",
    starting: "The avatar is starting …", connecting: "Connecting …", live: "Live", ended: "The session has ended.",
    lost: "The connection to the avatar was lost. Choose it again.", uploading: "Uploading …",
    working: "Uploaded; the service is working on it …", uploaded: "You can ask about it now.", stored: "Stored.",
    created: "The avatar was created.", expired: "Your session has ended. Please sign in again.",
    unreachable: "The gateway does not answer. Check the connection and try again.",
    broken: "The answer broke off.", refused: "That did not work (status {status}).",
    noVideo: "The avatar did not answer the video offer. Try again.", switchTo: "中文", switchLang: "zh",
  },
  zh: {
    skip: "跳到内容", title: "数字人控制台", signIn: "登录", signOut: "退出登录", email: "邮箱",
    password: "密码", avatars: "数字人", choose: "请选择一位数字人。", videoLabel: "数字人",
    hush: "停止说话", leave: "结束会话", conversation: "对话", message: "您的问题", send: "发送",
    document: "上传文档并提问（pdf、doc、docx、txt、xls、xlsx）", uploadIt: "上传", progress: "进度",
    newAvatar: "新建数字人", name: "名称（字母、数字、空格）", engine: "语音引擎",
    face: "面部视频（mp4，最大 100 MB）", voice: "声音（wav，最大 50 MB，可不填）", create: "创建",
    starting: "数字人正在启动……", connecting: "正在连接……", live: "实时", ended: "会话已结束。",
    lost: "与数字人的连接已断开，请重新选择。", uploading: "正在上传……",
    working: "已上传，服务正在处理……", uploaded: "现在可以就此提问。", stored: "已保存。",
    created: "数字人已创建。", expired: "登录已失效，请重新登录。",
    unreachable: "网关没有响应，请检查网络后重试。",
    broken: "回答中断了。", refused: "操作未成功（状态 {status}）。",
    noVideo: "数字人没有回应视频请求，请重试。", switchTo: "English", switchLang: "en",
  },
};

let language = localStorage.getItem("console.language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export function say(key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = say(element.dataset.label);
  const button = document.getElementById("language");
  button.textContent = say("switchTo");
  button.lang = say("switchLang");
}

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("console.language", language);
  translate();
}
