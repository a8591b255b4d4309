"""Whole sentences of the reports in Chinese. Each is found by its pattern; figures and names stand for the braces."""

from __future__ import annotations

import re
from functools import cache

from loadtest.report.words import Say, words

CHINESE = {
    # verdict
    "interrupted: the window is not complete": "已中断：测量窗口不完整",
    "counts do not add up: {} scheduled, {} completed, {} failed, {} cancelled, {} in flight":
        "数目不符：计划 {}，完成 {}，失败 {}，取消 {}，未结束 {}",
    "{} of {} planned requests were sent: a worker was lost or too slow":
        "计划的 {1} 个请求只发送了 {0} 个：有压测进程丢失或太慢",
    "no request was measured: raise the duration or the rate": "没有测到任何请求：请延长时间或提高请求率",
    "worker {} was lost, its figures are incomplete": "压测进程 {} 已丢失，其数据不完整",
    "schedule lag p99 {} ms is over {} ms": "发送延误 p99 为 {} 毫秒，超过 {} 毫秒",
    "worker {} used {} of a core (limit {})": "压测进程 {} 占用单核 {}（上限 {}）",
    "worker {}'s event loop was late by {} ms at p99 (limit {} ms), by its own work alone {} ms":
        "压测进程 {} 的事件循环 p99 延迟 {} 毫秒（上限 {} 毫秒），其中自身工作只占 {} 毫秒",
    "worker {} stood still for {} s (Ctrl-Z, a frozen container or machine): measure again":
        "压测进程 {} 停顿了 {} 秒（Ctrl-Z，或容器、机器被冻结）：请重新测量",
    "the generator was the bottleneck: add workers or lower the rate": "瓶颈在压测端：请增加压测进程或降低请求率",
    "the machine was the bottleneck ({} busy; worker {} used {} of a core and waited for one {} of the time): give the "
    "generator a machine of its own, or priority here: `chrt -r 5 make loadtest …` (as root, or where `ulimit -r` is 5 "
    "or more)":
        "瓶颈在机器（占用 {}；压测进程 {} 只用了单核的 {}，{} 的时间在等待 CPU）：请让压测端使用单独的机器，"
        "或在本机提高优先级：`chrt -r 5 make loadtest …`（以 root 运行，或 `ulimit -r` 不小于 5）",
    "{} of {} requests had not ended when the drain did (limit {}): the server hangs, or --drain is too short":
        "{1} 个请求中有 {0} 个在排空时间结束时仍未完成（上限 {2}）：服务端可能挂起，或 --drain 太短",
    "{} of {} requests failed (limit {})": "{1} 个请求中有 {0} 个失败（上限 {2}）",
    "{} of requests met every per-request limit (wanted {})": "{} 的请求达到全部单请求指标（要求 {}）",
    "{} p{} is {} (limit {} ms)": "{} p{} 为 {}（上限 {} 毫秒）",
    "{} p{} is {} (limit {} ms); {}": "{} p{} 为 {}（上限 {} 毫秒）；{}",
    "p{} of {} requests: the longest one": "{1} 个请求的 p{0}：即最长的一个",
    "p{} of {} gaps: the longest one": "{1} 个间隔的 p{0}：即最长的一个",
    "{} ms": "{} 毫秒", "not measured": "没有测到",
    "{} p{} is not reached (limit {} ms)": "{} p{} 未达到（上限 {} 毫秒）",
    # notes
    "a window of {} s is short for answers of {} s, too few of which end inside it to tell the throughput or "
    "saturation: give DURATION={}s or more":
        "测量窗口 {} 秒相对于 {} 秒的回答太短，窗口内结束的回答太少，无法判断吞吐和饱和：请设置 DURATION={}s 或更长",
    "{} of {} requests had not ended when the run did, or gave up: the table's E2E leaves them out, and they miss each "
    "limit that they had outlasted":
        "{1} 个请求中有 {0} 个在运行结束时尚未完成或已超时：表中的端到端延迟不含它们；凡已超过的限制，均按未达标计",
    "{} of {} requests were sent: the run ended first": "{1} 个请求只发送了 {0} 个：运行先结束了",
    "the trace goes on: {} of its {} requests come after {} s; a longer DURATION sends them":
        "轨迹未放完：{1} 个请求中有 {0} 个在 {2} 秒之后；加大 DURATION 即可发送",
    "the trace ends after {} s, and requests/s and tokens/s are means over {} s: REQUESTS={} without DURATION ends the "
    "window with its last answer":
        "轨迹在 {} 秒后结束，而请求/s 和 tokens/s 是 {} 秒内的平均值："
        "用 REQUESTS={} 代替 DURATION，窗口即在最后一个回答时结束",
    "{} of {} answers came in one piece and have no TPOT: something on the way may hold the stream back":
        "{1} 个回答中有 {0} 个一次性到达，没有 TPOT：途中可能有环节缓冲了数据流",
    "the server did not count the tokens of {} answers: each message counts as one":
        "服务端没有统计 {} 个回答的 token：每条消息按一个 token 计",
    "{} of {} answers were not as long as asked for: the server may not know ignore_eos":
        "{1} 个回答中有 {0} 个长度与要求不符：服务端可能不支持 ignore_eos",
    "{} of {} {} requests: the longest one (marked *)": "{1} 个 {2} 请求的 {0}：即最长的一个（标有 *）",
    "no queue and KV figures of the server: {} gave none ({}): set METRICS_PORT":
        "没有服务端的队列和 KV 数据：{} 未提供（{}）：请设置 METRICS_PORT",
    "no queue and KV figures of the server: {} is another's, or one of several: it ended {} streams, we {}: set "
    "METRICS_PORT":
        "没有服务端的队列和 KV 数据：{} 属于另一服务，或只是多个副本之一：它结束了 {} 个流，"
        "我们有 {} 个：请设置 METRICS_PORT",
    # one run
    "{} over {}": "{}，经由 {}", "{} users, closed loop": "{} 个用户，闭环", "open loop, {}": "开环，{}",
    "open loop, {} at {}/s": "开环，{}，{}/s", "{} s after {} s of warm-up": "预热 {1} 秒后测量 {0} 秒",
    "started {}": "开始于 {}", "model {}": "模型 {}", "errors ≤ {}": "错误 ≤ {}",
    "worker {}": "压测进程 {}", "{} µs of CPU per message; percentiles within 0.02 %":
        "每条消息 {} 微秒 CPU；百分位数误差在 0.02 % 以内",
    "A message carried {} tokens on average: ITL is not the time of one token, TPOT is.":
        "平均每条消息含 {} 个 token：单个 token 的时间是 TPOT，而不是 ITL。",
    # two runs
    "{}: A {}, B {}": "{}：A 为 {}，B 为 {}",
    "run {} was interrupted after {} s": "运行 {} 在测量 {} 秒后被中断",
    "run {} is INVALID": "运行 {} 无效",
    "tokens/s {} → {}; goodput/s {} → {}; failed {} → {}": "tokens/s {} → {}；有效吞吐/s {} → {}；失败 {} → {}",
    # a sweep
    "no rate met the limits": "没有任何请求率达标",
    "no run was valid, which says nothing about the server": "没有一次运行有效，因此无法判断服务器",
    "highest rate that meets the limits: {} requests/s": "达标的最高请求率：{} 请求/s",
    "saturates at {} requests/s": "在 {} 请求/s 时饱和", "no saturation seen": "未出现饱和",
    "no higher rate was tried": "未尝试更高的请求率",
    "ended before it had found the limit": "在找到极限之前已结束",
    "stopped because the generator became the bottleneck": "因压测端成为瓶颈而停止",
    "stopped because the generator's machine became the bottleneck": "因压测端所在的机器成为瓶颈而停止",
    "stopped because the generator was stopped for a while": "因压测端曾被暂停而停止",
    "stopped because counts did not add up": "因数目不符而停止",
    "limits {}; {} s at each rate": "指标 {}；每个请求率 {} 秒",
}  # fmt: skip


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """The longest sentence first: a short pattern may match a long one's text."""
    ordered = sorted(CHINESE.items(), key=lambda pair: -len(pair[0]))
    return [(re.compile(re.escape(english).replace(r"\{\}", "(.+?)")), chinese) for english, chinese in ordered]


def sentences(language: str) -> Say:
    """What turns a sentence of the report into ``language``; one that is not known stays."""
    say = words(language)
    if language != "zh":
        return say

    def said(sentence: str) -> str:
        for pattern, chinese in _patterns():
            if found := pattern.fullmatch(sentence):
                return chinese.format(*(said(part) for part in found.groups()))
        return say(sentence)

    return said
