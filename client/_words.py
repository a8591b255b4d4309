"""The terminal chat's phrases in Chinese, by their English form in the code."""

from __future__ import annotations

from client.language import language

HELP = """\
/system TEXT      set the system prompt (without TEXT: back to the model's own)
/set NAME VALUE   a sampling setting, for example /set temperature 0.2 (VALUE off: the default)
/set              show what is set
/reset            forget the conversation
/help             this
Ctrl-C stops an answer, Ctrl-D leaves."""

CHINESE = {
    HELP: """\
/system 文本       设置系统提示词（不带文本：恢复模型默认）
/set 名称 值       设置采样参数，例如 /set temperature 0.2（值为 off：恢复默认）
/set              查看当前设置
/reset            清空对话
/help             显示本帮助
Ctrl-C 停止回答，Ctrl-D 退出。""",
    "Talking to {0}. /help lists commands; Ctrl-C stops an answer, Ctrl-D leaves.":
        "已连接 {0}。输入 /help 查看命令；Ctrl-C 停止回答，Ctrl-D 退出。",
    "(Ctrl-D leaves, /help lists commands)": "（Ctrl-D 退出，/help 查看命令）",
    "no command /{0}; /help lists them": "没有命令 /{0}；输入 /help 查看",
    "new conversation": "已开始新对话",
    "system prompt: {0}": "系统提示词：{0}",
    "the model’s own": "模型默认",
    "all settings are the checkpoint's own": "全部使用模型默认设置",
    "no token came": "没有输出",
    "prompt": "输入",
    "cached": "命中缓存",
    "cut off": "被截断",
    "stopped": "已停止",
}  # fmt: skip


def say(phrase: str, *values: str) -> str:
    """``phrase`` in the user's language, with ``values`` for {0}, {1}, …"""
    return (CHINESE.get(phrase, phrase) if language() == "zh" else phrase).format(*values)
