"""Calls of client.js in a page, with options and with the codes of errors."""

from typing import Any

from tests.browser.driver import Browser

CALL = """
    const client = await import(args[2]);
    try {
        return { value: await client[args[0]](args[1]) };
    } catch (error) {
        return { code: error.code, message: error.message, name: error.name };
    }
"""


def call(
    browser: Browser, function: str, *, module: str = "/push/client.js", prepare: str = "", **options: Any
) -> Any:
    """Call a function after `prepare` has run in the page; return its result, or the error as a dict."""
    result = browser.run(prepare + CALL, function, options, module)
    return result["value"] if "value" in result or result == {} else result


def code(result: Any) -> str | None:
    """Return the code of an error that `call` returned."""
    return result.get("code") if isinstance(result, dict) else None
