/* Gramophone for C: which of two responses is better, with a probability.
 *
 * Open a judge once, and use it from as many threads as you like: all calls share one queue and are batched together, and an answer has
 * the same bits alone and under any load. Link with -lgramophone. Where a status is not GRAMOPHONE_STATUS_OK,
 * gramophone_last_error() says what was wrong, where, and what to do, and nothing was written. Texts are UTF-8 and end with a zero.
 *
 * Written by `GRAMOPHONE_WRITE_HEADER=1 cargo test --release -p gramophone-capi`; a test compares it with the code.
 */

#ifndef GRAMOPHONE_H
#define GRAMOPHONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 How a call went.
 */
typedef enum GramophoneStatus {
  GRAMOPHONE_STATUS_OK = 0,
  /*
   An argument that cannot mean anything: null, not UTF-8, an unknown name.
   */
  GRAMOPHONE_STATUS_USAGE = 1,
  /*
   A text that cannot be judged.
   */
  GRAMOPHONE_STATUS_DATA = 2,
  /*
   A model directory that is damaged or not supported, or that cannot do what is asked.
   */
  GRAMOPHONE_STATUS_MODEL = 3,
  /*
   The operating system refused.
   */
  GRAMOPHONE_STATUS_IO = 4,
  /*
   A device that is absent, too small or failing.
   */
  GRAMOPHONE_STATUS_DEVICE = 5,
  /*
   Too many tokens for the context, or for the queue. Nothing is cut.
   */
  GRAMOPHONE_STATUS_TOO_LONG = 6,
  /*
   The time was over before there was an answer.
   */
  GRAMOPHONE_STATUS_LATE = 7,
  /*
   The judge stops.
   */
  GRAMOPHONE_STATUS_STOPPED = 8,
  /*
   A fault of the library itself.
   */
  GRAMOPHONE_STATUS_PANIC = 9,
} GramophoneStatus;

/*
 Which response is better.
 */
typedef enum GramophoneSide {
  GRAMOPHONE_SIDE_B = -1,
  /*
   Both orders cancel exactly.
   */
  GRAMOPHONE_SIDE_TIE = 0,
  GRAMOPHONE_SIDE_A = 1,
} GramophoneSide;

/*
 A model, its queue, and the thread that computes.
 */
typedef struct GramophoneJudge GramophoneJudge;

/*
 How to open a judge. Zero and null stand for the usual: `GramophoneOptions options = {0};`
 */
typedef struct GramophoneOptions {
  /*
   Where to compute: "cpu", "cuda" or "cuda:N"; the CPU if null.
   */
  const char *device;
  /*
   CPU threads; 0 for one per core.
   */
  uint32_t threads;
  /*
   An adapter beside the model, a PEFT directory.
   */
  const char *adapter;
  /*
   A file with the judge prompt; ours if null.
   */
  const char *template_file;
  /*
   The date that a chat template may print, such as 2024-07-26.
   */
  const char *template_date;
  /*
   Type of the weights in memory: "auto" (as the checkpoint stores them, also if null), "f32" or "bf16".
   */
  const char *dtype;
  /*
   Longest text in tokens; 0 for what the model was made for, up to 8192.
   */
  size_t context;
  /*
   Tokens that may wait in the queue; 0 for 1048576. A call waits for room.
   */
  size_t queue_tokens;
} GramophoneOptions;

/*
 Two responses to a prompt.
 */
typedef struct GramophonePair {
  /*
   The prompt as a text, or null where `messages` is given.
   */
  const char *prompt;
  /*
   The prompt as a JSON list of messages {"role", "content"}, or null.
   */
  const char *messages;
  const char *response_a;
  const char *response_b;
} GramophonePair;

/*
 What a judge says of a pair.
 */
typedef struct GramophoneJudgment {
  /*
   Probability that response a is better, the mean over both orders; of a scalar model, Bradley and Terry's.
   */
  double p_a;
  /*
   Probability that both labels have together in the whole vocabulary. NaN from a scalar model, as the margins.
   */
  double label_mass;
  /*
   Logit A minus logit B with response a shown first, and with it shown second.
   */
  float margin_ab;
  float margin_ba;
  /*
   The rewards of a scalar model; NaN from a judge.
   */
  float reward_a;
  float reward_b;
  enum GramophoneSide verdict;
  /*
   Both orders agree.
   */
  bool consistent;
} GramophoneJudgment;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Opens a Hugging Face model directory. `options` may be null. On success `*judge` is to be closed with gramophone_close.

 # Safety
 Pointers are null or point to what their types say.
 */
enum GramophoneStatus gramophone_open(const char *model,
                                      const struct GramophoneOptions *options,
                                      struct GramophoneJudge **judge);

/*
 Closes a judge, or does nothing with null. No other call may be using it.

 # Safety
 The judge was opened by gramophone_open and not closed yet.
 */
void gramophone_close(struct GramophoneJudge *judge);

/*
 Judges `n` pairs, each in both orders, and writes `n` judgments. `timeout_seconds` 0 waits as long as it takes.

 # Safety
 Pointers are null or point to what their types say, `pairs` and `judgments` to `n` of them.
 */
enum GramophoneStatus gramophone_judge(const struct GramophoneJudge *judge,
                                       const struct GramophonePair *pairs,
                                       size_t n,
                                       double timeout_seconds,
                                       struct GramophoneJudgment *judgments);

/*
 Orders `n` responses to one prompt: `prompt` is a text, or null where `messages` is a JSON list of messages. `method` is
 "round_robin" (also if null), "linear", "knockout", "swiss", "anchor" or "adaptive". Writes `n` indices, best first, to `order`, and
 to `scores` for each response its mean probability of beating those it was compared with (a scalar model: its rewards).
 `comparisons`, unless null, gets the number of pairs that were compared.

 # Safety
 Pointers are null or point to what their types say, `responses`, `order` and `scores` to `n` of them.
 */
enum GramophoneStatus gramophone_rank(const struct GramophoneJudge *judge,
                                      const char *prompt,
                                      const char *messages,
                                      const char *const *responses,
                                      size_t n,
                                      const char *method,
                                      double timeout_seconds,
                                      size_t *order,
                                      double *scores,
                                      size_t *comparisons);

/*
 Reads the logits of labels at the ends of `n` prompts of token ids. Prompt `i` is `ids[offsets[i] .. offsets[i + 1]]`, so there are `n + 1`
 offsets. Writes `n * label_count` logits, and, unless null, `n` log-sum-exps over the whole vocabulary to `lse`.

 # Safety
 Pointers are null or point to what their types say, as many as said above.
 */
enum GramophoneStatus gramophone_label_logits(const struct GramophoneJudge *judge,
                                              const int32_t *ids,
                                              const size_t *offsets,
                                              size_t n,
                                              const int32_t *labels,
                                              size_t label_count,
                                              double timeout_seconds,
                                              float *logits,
                                              float *lse);

/*
 The rewards that a scalar model gives `n` conversations of token ids, laid out as for gramophone_label_logits.

 # Safety
 Pointers are null or point to what their types say, as many as said above.
 */
enum GramophoneStatus gramophone_rewards(const struct GramophoneJudge *judge,
                                         const int32_t *ids,
                                         const size_t *offsets,
                                         size_t n,
                                         double timeout_seconds,
                                         float *rewards);

/*
 The token ids that mean "A is better" and "B is better" to this judge.

 # Safety
 Pointers are null or point to what their types say.
 */
enum GramophoneStatus gramophone_labels(const struct GramophoneJudge *judge,
                                        int32_t *a,
                                        int32_t *b);

/*
 What was wrong with the last call of this thread that failed; empty if none did. It stays until the thread's next call that fails.
 */
const char *gramophone_last_error(void);

/*
 The version of this library.
 */
const char *gramophone_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GRAMOPHONE_H */
