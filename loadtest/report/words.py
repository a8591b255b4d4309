"""The report's words in Chinese. English is what the code is written in, and what an unknown phrase stays in."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], str]

CHINESE = {
    "Load test of a streaming LLM server": "流式大模型服务负载测试",
    "Two load tests compared": "两次负载测试对比",
    "How much load it takes": "服务能承受多大负载",
    "PASS": "通过", "LIMITS MISSED": "未达到指标", "INVALID": "无效",
    "INVALID: the generator was the bottleneck": "无效：瓶颈在压测端",
    "INVALID: the generator's machine was the bottleneck": "无效：瓶颈在压测端所在的机器", "not judged": "未判定",
    "by its own work": "自身工作所致", "waited for a core": "等待 CPU 的时间", "machine busy": "整机占用",
    "interrupted": "已中断",
    "output tokens/s": "输出 tokens/s", "requests/s": "请求/s", "goodput/s": "有效吞吐/s", "failed": "失败",
    "of": "共", "median": "中位数",
    "Limits": "指标", "limit": "限制", "measured": "实测", "met": "达标", "yes": "是", "no": "否",
    "Latency": "延迟", "Latency, ms": "延迟（毫秒）", "count": "数量", "mean": "均值", "max": "最大",
    "TTFT from schedule": "TTFT（自计划发送）", "TTFT from send": "TTFT（自实际发送）",
    "E2E from schedule": "端到端（自计划发送）", "E2E from send": "端到端（自实际发送）", "schedule lag": "发送延误",
    "Requests and tokens": "请求与 token", "all": "合计",
    "scheduled": "计划", "completed": "完成", "cancelled": "取消", "in flight": "未结束", "warmup": "预热",
    "prompt tokens": "输入 token", "cached tokens": "缓存 token", "completion tokens": "输出 token",
    "length mismatches": "长度不符", "uncounted": "服务端未计数", "not reached": "未达到",
    "requests per s": "请求/s", "tokens per s": "tokens/s",
    "goodput per s": "有效吞吐/s", "tokens per message": "每条消息的 token",
    "What the gateway costs (SSE − gRPC, same run)": "网关开销（SSE − gRPC，同一次运行）",
    "difference": "差值", "95 % interval": "95 % 区间", "beyond chance": "超出随机波动",
    "the interval holds 0: this run is too short or too noisy to tell the two apart":
        "区间包含 0：本次运行太短或波动太大，无法区分两者",
    "too few": "样本太少", "longest of": "最长，共",
    "too few: with so few requests the difference proves nothing, whatever its interval":
        "样本太少：请求数不足，无论区间如何，该差值都不能说明问题",
    "Charts": "图表", "How it is counted": "计算方法", "The generator": "压测端", "The server": "服务端",
    "Environment": "环境", "of one core": "单核占用", "loop lag p99, ms": "事件循环延迟 p99（毫秒）",
    "messages": "消息", "highest": "最高", "running": "运行中", "waiting": "排队中",
    "Time to first token": "首 token 时间", "ITL and TPOT": "ITL 与 TPOT", "End to end": "端到端",
    "TTFT of each request": "每个请求的 TTFT", "Output tokens per second": "每秒输出 token",
    "Running streams, and the server's queue": "运行中的流与服务端队列",
    "TTFT against rate (the run in twelve windows)": "TTFT 与到达率（全程分为十二段）",
    "KV cache in use (server)": "KV 缓存占用（服务端）", "KV cache in use": "KV 缓存占用",
    "requests at or below": "不超过该值的请求", "ms (log)": "毫秒（对数）", "ms": "毫秒", "s": "秒",
    "scheduled at, s": "计划发送时刻（秒）", "streams": "流", "arrivals per second": "每秒到达",
    "measured from here": "从此计入", "end": "结束", "nothing measured": "没有数据",
    "open streams (client)": "打开的流（客户端）", "running (server)": "运行中（服务端）",
    "waiting (server)": "排队中（服务端）", "from schedule": "自计划发送", "from send": "自实际发送",
    "requests per second": "每秒请求", "TTFT against rate": "TTFT 与请求率", "TPOT against rate": "TPOT 与请求率",
    "Goodput and throughput": "有效吞吐与吞吐", "goodput": "有效吞吐", "offered": "施加的负载",
    "limits met up to here": "到此为止达标", "saturated": "饱和", "missed": "未达标", "limits": "指标",
    "cpu": "CPU", "cores": "核数", "memory": "内存", "system": "系统", "gpu": "GPU", "packages": "软件包",
    "t_first − t_sched (what a user waits who arrives on time)": "t_first − t_sched（准时到达的用户等待的时间）",
    "(t_last − t_first) / (n − 1), requests whose n > 1 output tokens came in more than one piece":
        "(t_last − t_first) / (n − 1)，输出 token 数 n > 1 且分多次到达的请求",
    "gaps between consecutive messages of a stream, pooled over all streams": "同一流中相邻消息的间隔，所有流合并统计",
    "t_send − t_sched (the generator's own lateness)": "t_send − t_sched（压测端自身的延误）",
    "requests that ended within the window and meet every per-request limit, per second":
        "每秒在测量窗口内结束并达到全部单请求指标的请求数",
    "as the server counted them; tokens/s is what arrived inside the window":
        "以服务端计数为准；tokens/s 为测量窗口内收到的数量",
    "gRPC and SSE": "gRPC 与 SSE", "commit": "提交", "target": "目标", "settings": "设置", "none": "无",
}  # fmt: skip


def words(language: str) -> Say:
    """What turns a phrase of the report into ``language`` (``en`` or ``zh``)."""
    return (lambda phrase: CHINESE.get(phrase, phrase)) if language == "zh" else (lambda phrase: phrase)


ENGLISH = words("en")
