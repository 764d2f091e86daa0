/* A judge inside a C program: two threads share it, then it ranks.
 *
 *   cargo build --release -p gramophone-capi
 *   cc -o embed examples/embed.c -I capi -L target/release -lgramophone -lpthread -Wl,-rpath,target/release
 *   ./embed MODEL_DIR
 */
#include "gramophone.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const answers[] = {"4", "Five, I think.", "2 + 2 = 4, because 2 and 2 are four."};
enum { ANSWERS = sizeof answers / sizeof *answers };

static void check(GramophoneStatus status) {
    if (status != GRAMOPHONE_STATUS_OK) {
        fprintf(stderr, "%s\n", gramophone_last_error());
        exit(1);
    }
}

struct work {
    const GramophoneJudge *judge;
    GramophonePair pairs[ANSWERS];
    GramophoneJudgment judgments[ANSWERS];
};

/* Judges each answer against the next. */
static void *work(void *argument) {
    struct work *w = argument;
    check(gramophone_judge(w->judge, w->pairs, ANSWERS, 60, w->judgments));
    return NULL;
}

int main(int argc, char **argv) {
    const char *model = argc > 1 ? argv[1] : "tests/golden/llama";
    GramophoneOptions options = {.threads = 2};
    GramophoneJudge *judge;
    check(gramophone_open(model, &options, &judge));

    static const char *const prompts[] = {"What is 2 + 2?", "Wie viel ist 2 + 2\xc3\xa4?"};
    struct work works[2];
    pthread_t threads[2];
    for (int t = 0; t < 2; t++) {
        works[t].judge = judge;
        for (int i = 0; i < ANSWERS; i++)
            works[t].pairs[i] = (GramophonePair){
                .prompt = prompts[t], .response_a = answers[i], .response_b = answers[(i + 1) % ANSWERS]};
        pthread_create(&threads[t], NULL, work, &works[t]);
    }
    for (int t = 0; t < 2; t++) {
        pthread_join(threads[t], NULL);
        for (int i = 0; i < ANSWERS; i++) {
            const GramophoneJudgment *j = &works[t].judgments[i];
            printf("pair %d %d: p_a %.17g, margins %.9g %.9g, %s\n", t, i, j->p_a, j->margin_ab, j->margin_ba,
                   j->verdict == GRAMOPHONE_SIDE_A ? "A" : j->verdict == GRAMOPHONE_SIDE_B ? "B" : "tie");
        }
    }

    size_t order[ANSWERS], comparisons;
    double scores[ANSWERS];
    check(gramophone_rank(judge, prompts[0], NULL, answers, ANSWERS, "round_robin", 60, order, scores, &comparisons));
    printf("after %zu comparisons:\n", comparisons);
    for (int i = 0; i < ANSWERS; i++)
        printf("rank %d: answer %zu, score %.17g\n", i + 1, order[i], scores[order[i]]);
    gramophone_close(judge);
    return 0;
}
