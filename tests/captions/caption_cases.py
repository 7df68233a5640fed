"""Concepts that the tests of captions share."""

CT, XR, MR, AN = "C0040405", "C1306645", "C0024485", "C0002978"
CHEST, LIVER, EFFUSION = "C0817096", "C0023884", "C0032227"
AP, PA = "C1999039", "C1996865"
NAMES = {
    CT: "X-Ray Computed Tomography",
    XR: "Plain x-ray",
    MR: "Magnetic Resonance Imaging",
    AN: "angiogram",
    CHEST: "Chest",
    LIVER: "Liver",
    EFFUSION: "Pleural effusion disorder",
    AP: "Anterior-Posterior",
    PA: "Postero-Anterior",
    "C0027651": "Neoplasms",
    "C4028269": "CT of abdomen",
}
