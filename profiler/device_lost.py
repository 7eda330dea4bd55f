"""DeviceLostError: an error after which this process cannot use its device.

An illegal access on a CUDA device fails every later call of the process. The campaign
then ends with what it has, and whoever started it starts it again.
"""

from models.profile_records import StepRecord


class DeviceLostError(RuntimeError):
    """The device answers no more.

    Parameters
    ----------
    record
        The point that was being measured, as not measured.
    """

    def __init__(self, record: StepRecord) -> None:
        super().__init__(f"the device is lost: {record.note}")
        self.record = record
