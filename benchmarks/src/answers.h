/* The texts that mock.c answers with: the fields that vLLM 0.32 sends, those that no client knows included. */

#define ID "\"id\":\"chatcmpl-4f1c0d5e8a7b4c6d9e2f1a3b5c7d9e0f\""
#define MESSAGE_HEAD                                                                                                   \
    "{" ID ",\"object\":\"chat.completion\",\"created\":1767225600,\"model\":\"mock\",\"choices\":[{\"index\":0,"      \
    "\"message\":{\"role\":\"assistant\",\"refusal\":null,\"annotations\":null,\"audio\":null,"                        \
    "\"function_call\":null,\"reasoning\":null,"
#define MESSAGE_TAIL                                                                                                   \
    ",\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{"         \
    "\"prompt_tokens\":123,\"total_tokens\":223,\"completion_tokens\":100,\"prompt_tokens_details\":null},"            \
    "\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"kv_transfer_params\":null}"
#define CALL_ID "\"id\":\"chatcmpl-tool-9a8b7c6d5e4f3a2b1c0d\",\"type\":\"function\""

static const char TEXT_ANSWER[] = MESSAGE_HEAD
    "\"content\":\"The quick brown fox jumps over the lazy dog, then writes a short answer that is about as long as a "
    "chat turn.\",\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"" MESSAGE_TAIL;
static const char CALL_ANSWER[] = MESSAGE_HEAD
    "\"content\":null,\"tool_calls\":[{" CALL_ID ",\"function\":{\"name\":\"read_file\",\"arguments\":"
    "\"{\\\"path\\\": \\\"src/main.py\\\", \\\"start\\\": 1, \\\"end\\\": 200}\"}}]},\"logprobs\":null,"
    "\"finish_reason\":\"tool_calls\"" MESSAGE_TAIL;
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\","
                             "\"created\":1767225600,\"owned_by\":\"vllm\",\"max_model_len\":131072}]}";
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\n"
                                  "content-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";

#define CHUNK                                                                                                          \
    "data: {" ID ",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"mock\",\"choices\":["
#define DELTA(delta)                                                                                                   \
    CHUNK "{\"index\":0,\"delta\":{" delta "},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n"
#define FINISH(reason)                                                                                                 \
    CHUNK "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"" reason                    \
          "\",\"stop_reason\":null,\"token_ids\":null}]}\n\n"
#define ARGUMENTS(text) DELTA("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"" text "\"}}]")
#define CONTENT(text) DELTA("\"content\":\"" text "\"")
#define CALL_NAME                                                                                                      \
    DELTA("\"tool_calls\":[{" CALL_ID ",\"index\":0,\"function\":{\"name\":\"read_file\",\"arguments\":\"\"}}]")
