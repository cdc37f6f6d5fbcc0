"""The training of models, given their data and settings; what is run and recorded around it is `fuse/train.py`.

What stands where:

    config                      what can be set
    workers, seeds              many seeds and folds, side by side or as one program; one seed's training, whole
    loop, checkpoint, board     epochs and what is kept of them; going on after a stop; what TensorBoard shows
    steps                       one model's steps, as they come
    program                     the steps of one or several seeds as one program of fixed shapes, by way of
                                `graph` (CUDA graphs), `buckets` (batches of few shapes), `draws` (random numbers drawn
                                before a step) and `together` (several models as one)
    losses                      what is minimised
    optimize, active_experts    optimizers and schedules; of experts, those alone that an input was sent to
    timing                      where the time goes
"""
