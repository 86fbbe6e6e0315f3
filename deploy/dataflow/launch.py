"""What the Flex Template's launcher runs: it makes the job that drives a lexbeam job."""

from lexbeam.pipeline.dataflow.template import main

if __name__ == "__main__":
    main()
